"""What a value in a store seems to be, from its bytes: a counter, text, a pickled object, or just bytes."""

from __future__ import annotations

import base64
import re
from enum import Enum

from torchctl.text import printable

_COUNTER = re.compile(rb"-?[0-9]{1,19}\Z")
# Bytes with control characters are not text, except for those in multi-line text.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PICKLE_PROTOCOLS = range(2, 6)  # the PROTO opcode exists from protocol 2 on; torch and Python write it
_STOP = b"."
_LEAST, _MOST = -(2**63), 2**63 - 1
_PREVIEW = 60  # characters
_HEX_PREVIEW = 24  # bytes


class Kind(Enum):
    """What the bytes seem to be."""

    COUNTER = "counter"
    TEXT = "text"
    PICKLE = "pickle"
    BYTES = "bytes"


def as_counter(data: bytes) -> int | None:
    """Return the number that a store would add to, or None if `data` is not a 64-bit number."""
    number = int(data) if _COUNTER.match(data) else None
    return number if number is not None and _LEAST <= number <= _MOST else None


def classify(data: bytes) -> Kind:
    """Return what `data` seems to be. Never unpickles it."""
    if as_counter(data) is not None:
        return Kind.COUNTER
    if _looks_pickled(data) or wrapped_pickle(data) is not None:
        return Kind.PICKLE
    return Kind.BYTES if as_text(data) is None else Kind.TEXT


def as_text(data: bytes) -> str | None:
    """Return `data` as text, or None if it is not text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _NO_TEXT.search(text) else text


def preview(data: bytes) -> str:
    """Return the beginning of `data` on one printable line, with bytes as hex."""
    text = as_text(data)
    if text is None:
        head = data[:_HEX_PREVIEW].hex(" ")
        return head if len(data) <= _HEX_PREVIEW else f"{head} ..."
    return printable(text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]} ...")


def wrapped_pickle(data: bytes) -> bytes | None:
    """Return the pickle inside base64 text, the form of elastic rendezvous state, or None if there is none."""
    if len(data) < 8 or len(data) % 4 or not data.startswith(b"gA"):  # base64 of 0x80 0x0?: a pickle's first bytes
        return None
    try:
        inner = base64.b64decode(data, validate=True)
    except ValueError:
        return None
    return inner if _looks_pickled(inner) else None


def _looks_pickled(data: bytes) -> bool:
    return data[:1] == b"\x80" and data[1:2] != b"" and data[1] in _PICKLE_PROTOCOLS and data.endswith(_STOP)
