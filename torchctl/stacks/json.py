"""Reads stacks in the JSON format of torchctl's server, and the calls line in its text format."""

from __future__ import annotations

import json
from typing import Any

from torchctl.protocol.callreader import calls_from_json, calls_from_text
from torchctl.protocol.calls import Calls
from torchctl.protocol.stacktext import CALLS_LINE, CALLS_PARAMETER, JSON_SCHEMA
from torchctl.stacks.stack import MAX_FRAMES, MAX_THREADS, StackFrame, Stacks, ThreadStack


def stacks_from_json(text: str) -> Stacks:
    """Return the stacks in JSON from torchctl's server.

    Raises:
        ValueError: the text is something else; the message says what is wrong.
    """
    try:
        document = json.loads(text)
        if document["schema"] != JSON_SCHEMA:
            raise ValueError(f"it is a {document['schema']!r}, not a {JSON_SCHEMA!r}")
        threads = document["threads"]
        if not isinstance(threads, list) or len(threads) > MAX_THREADS:
            raise ValueError("its threads are not a list, or there are too many")
        return Stacks(tuple(_thread(thread) for thread in threads), calls=_calls(document.get(CALLS_PARAMETER)))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the JSON is not in the {JSON_SCHEMA} format: {type(error).__name__}") from error


def split_calls(text: str) -> tuple[str, Calls | None]:
    """Return a text of stacks without its calls line, and the calls, or None if they are missing or unreadable."""
    at = text.rfind(f"\n{CALLS_LINE}")
    if at < 0:
        return text, None
    line, _, rest = text[at + 1 + len(CALLS_LINE) :].partition("\n")
    try:
        return text[: at + 1] + rest, calls_from_text(line)
    except ValueError:
        return text[: at + 1] + rest, None


def _calls(document: Any) -> Calls | None:
    try:
        return None if document is None else calls_from_json(document)
    except ValueError:
        return None  # the stacks are useful without the calls


def _thread(thread: Any) -> ThreadStack:
    frames = [
        StackFrame(_text(frame["file"]), _line(frame["line"]), _text(frame["function"]))
        for frame in thread["frames"][:MAX_FRAMES]
    ]
    return ThreadStack(
        _line(thread["id"]),
        _text(thread["name"]),
        thread["main"] is True,
        tuple(frames),
        thread["complete"] is True,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value[:4096]


def _line(value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or value < 0 or value >= 1 << 64:
        raise TypeError("no number")
    return value
