"""Which thread holds a plain lock: one with a frame inside a ``with`` on that very lock.

How this works: Python does not record who holds a `threading.Lock`. But nearly all locks are taken by ``with``, and the
bytecode shows which ``with`` blocks an instruction is inside: from 3.11 by the exception table, which has a row for
each block that starts right after the instruction that enters it; in 3.10 by the range of SETUP_WITH. We then look up
the object of the ``with`` as it is now; only the same object counts.

Source: CPython's Objects/exception_handling_notes.txt (3.11) for the table.
"""

from __future__ import annotations

import dis
import sys
import weakref
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import NamedTuple

from torchctl.server.handlers.calling.bytecode import Operand, call_at

_MAX_FRAMES = 5000  # for all threads together
_MAX_KNOWN = 1000
_ENTER = dis.opmap.get("SETUP_WITH" if sys.version_info < (3, 11) else "BEFORE_WITH")  # None from 3.14


class _Block(NamedTuple):
    """One ``with``: its object, and the byte offsets of its body, end excluded."""

    entered: Operand
    inside: tuple[tuple[int, int], ...]


# By the id of a code object: a weak reference to it, and its blocks.
_known: dict[int, tuple[weakref.ref[CodeType], tuple[_Block, ...]]] = {}


def entered_by(frames: dict[int, FrameType]) -> Iterator[tuple[int, FrameType, Operand]]:
    """Yield thread id, frame and object of each ``with`` that a thread is inside, innermost first."""
    count = 0
    for ident, top in frames.items():
        frame: FrameType | None = top
        while frame is not None and count < _MAX_FRAMES:
            count += 1
            offset = frame.f_lasti
            for block in _blocks(frame.f_code):
                if any(begin <= offset < end for begin, end in block.inside):
                    yield ident, frame, block.entered
            frame = frame.f_back


def _blocks(code: CodeType) -> tuple[_Block, ...]:
    known = _known.get(id(code))
    if known is None or known[0]() is not code:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        known = _known[id(code)] = (weakref.ref(code), tuple(_read(code)))
    return known[1]


def _read(code: CodeType) -> Iterator[_Block]:
    if _ENTER is None or (sys.version_info >= (3, 11) and not code.co_exceptiontable):
        return
    raw = code.co_code
    enters = _offsets(raw[::2], _ENTER)
    handlers = _handlers(code) if enters and sys.version_info >= (3, 11) else []
    for at in enters:
        site = call_at(code, at)
        if site is None or site.receiver is None:
            continue
        if sys.version_info < (3, 11):
            yield _Block(site.receiver, ((at + 2, at + 2 + 2 * _argument(raw, at)),))
            continue
        own = next((handler for begin, _, handler in handlers if begin == at + 2), None)
        if own is not None:
            yield _Block(site.receiver, tuple(_inside(handlers, own)))


def _offsets(instructions: bytes, wanted: int) -> list[int]:
    found = []
    at = instructions.find(wanted)
    while at >= 0:
        found.append(2 * at)
        at = instructions.find(wanted, at + 1)
    return found


def _inside(handlers: list[tuple[int, int, int]], own: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that a handler covers, and those of handlers that lie inside one of these ranges."""
    pending, seen = [own], set()
    while pending:
        one = pending.pop()
        if one in seen:
            continue
        seen.add(one)
        for begin, end, handler in handlers:
            if handler == one:
                yield begin, end
                pending += [inner for _, _, inner in handlers if begin <= inner < end]


def _handlers(code: CodeType) -> list[tuple[int, int, int]]:
    """Return the exception table as byte offsets: begin, end and handler."""
    table = iter(code.co_exceptiontable)  # type: ignore[attr-defined]
    found = []

    def number(first: int) -> int:
        value = first & 63
        while first & 64:
            first = next(table)
            value = value << 6 | first & 63
        return value

    for first in table:
        begin = number(first)
        size, handler, _ = number(next(table)), number(next(table)), number(next(table))
        found.append((2 * begin, 2 * (begin + size), 2 * handler))
    return found


def _argument(raw: bytes, at: int) -> int:
    argument, shift = raw[at + 1], 8
    while at >= 2 and dis.opname[raw[at - 2]] == "EXTENDED_ARG":
        at -= 2
        argument |= raw[at + 1] << shift
        shift += 8
    return argument
