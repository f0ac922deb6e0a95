"""Reads the document of `torchctl.protocol.calls` from a sender that cannot be trusted. No I/O.

How this works: unknown keys are ignored, so that a newer worker may add some. Long texts are cut. A number out of
range, a list that is too long or any other malformed value makes the reader reject the whole document.
"""

from __future__ import annotations

import json
from typing import Any

from torchctl.protocol.calls import (
    MAX_CALLS,
    MAX_GROUPS,
    MAX_KEYS,
    MAX_OFFSETS,
    MAX_P2P,
    MAX_TENSORS,
    MAX_TEXT,
    MAX_THREADS,
    NUMBERS,
    P2P,
    SCHEMA,
    Call,
    Calls,
    Group,
    Tensor,
    ThreadCalls,
    Wait,
)

_MAX_PATH = 4096
_MAX_RUNS = 65_536
_MAX_MEMBERS = 1 << 24
_MAX_NUMBER = 1 << 63


def calls_from_text(text: str | bytes) -> Calls:
    """Return the document in a text.

    Raises:
        ValueError: the text is something else.
    """
    try:
        return calls_from_json(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def calls_from_json(document: Any) -> Calls:
    """Return the checked document.

    Raises:
        ValueError: it is malformed; the message says what is wrong.
    """
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"it is a {document['schema']!r:.100}, not a {SCHEMA!r}")
        groups = tuple(_group(one) for one in _list(document["groups"], MAX_GROUPS))
        p2p = document["p2p"]
        return Calls(
            _whole(document["pid"]),
            _number(document["rank"]),
            _seconds(document["time"]),
            document["arguments"] is True,
            document["complete"] is True,
            groups,
            tuple(_thread(one, len(groups)) for one in _list(document["threads"], MAX_THREADS)),
            None if p2p is None else tuple(_outstanding(one, len(groups)) for one in _list(p2p, MAX_P2P)),
        )
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not in the {SCHEMA} format: {type(error).__name__}") from error


def _group(one: Any) -> Group:
    return Group(
        _text(one["name"]),
        _text(one["description"]),
        _runs(one["ranks"]),
        _number(one["rank"]),
        _text(one["backend"]),
        one["default"] is True,
        _number(one["sequence"]),
    )


def _thread(one: Any, groups: int) -> ThreadCalls:
    file, line, function = _three(one["frame"])
    return ThreadCalls(
        _whole(one["id"], 1 << 64),
        _number(one["native_id"]),
        _text(one["name"]),
        one["main"] is True,
        _number(one["cpu_ns"]),
        _text(one["wchan"]),
        (_text(file, _MAX_PATH), _whole(line), _text(function)),
        tuple(_call(call, groups) for call in _list(one["calls"], MAX_CALLS)),
        None if one["wait"] is None else _wait(one["wait"], groups),
        tuple(_whole(offset) for offset in _list(one.get("offsets", []), MAX_OFFSETS)),
    )


def _call(one: Any, groups: int) -> Call:
    if not isinstance(one, dict):
        raise TypeError
    ranks, tensors = one.get("ranks"), one.get("tensors", {})
    if len(tensors) > 2 * MAX_TENSORS:
        raise ValueError("a call has too many arguments")
    return Call(
        _text(one["function"]),
        _whole(one["depth"]),
        _whole(one["line"]),
        _index(one.get("group"), groups),
        {name: _signed(one[name]) for name in NUMBERS if name in one},
        None if one.get("async_op") is None else one["async_op"] is True,
        _text(one.get("op", "")),
        _text(one.get("to", "")),
        None if ranks is None else _runs(ranks),
        _texts(one.get("keys", [])),
        {
            _text(name): tuple(_tensor(tensor) for tensor in _list(several, MAX_TENSORS))
            for name, several in tensors.items()
        },
        tuple(_planned(each) for each in _list(one.get("p2p", []), MAX_P2P)),
    )


def _wait(one: Any, groups: int) -> Wait:
    if not isinstance(one, dict):
        raise TypeError
    p2p, thread = one.get("p2p"), one.get("thread")
    return Wait(
        _text(one["call"]),
        _text(one.get("kind", "")),
        _text(one.get("type", "")),
        _text(one.get("via", "")),
        _texts(one.get("keys", [])),
        _text(one.get("operation", "")),
        None if p2p is None else _outstanding(p2p, groups),
        None if thread is None else _whole(thread, 1 << 64),
        _number(one.get("process")),
        one.get("sync") is True,
    )


def _tensor(one: Any) -> Tensor:
    dtype, shape, device = _three(one)
    dimensions = None if shape is None else tuple(_whole(size) for size in _list(shape, 64))
    return Tensor(_text(dtype), dimensions, _text(device))


def _planned(one: Any) -> P2P:
    operation, peer, tag = _three(one)
    return P2P(_text(operation), None if peer is None else _signed(peer), None if tag is None else _signed(tag))


def _outstanding(one: Any, groups: int) -> P2P:
    operation, peer, tag = _planned([one["operation"], one["peer"], one["tag"]])[:3]
    return P2P(operation, peer, tag, _index(one["group"], groups), _seconds(one["since"]))


def _runs(value: Any) -> tuple[range, ...]:
    found = []
    total = 0
    for first, last, step in map(_three, _list(value, _MAX_RUNS)):
        if _whole(step) == 0 or _whole(last) < _whole(first):
            raise ValueError("a run of ranks has no step")
        found.append(range(first, last + 1, step))
        total += len(found[-1])
    if total > _MAX_MEMBERS:
        raise ValueError("there are too many ranks")
    return tuple(found)


def _index(value: Any, count: int) -> int | None:
    number = _number(value)
    if number is not None and number >= count:
        raise ValueError("a call names a group that is not listed")
    return number


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(one) for one in _list(value, MAX_KEYS))


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    if len(value) > most:
        raise ValueError(f"a list in it has {len(value)} entries; at most {most} are allowed")
    return value


def _three(value: Any) -> list[Any]:
    if len(_list(value, 3)) < 3:
        raise ValueError("a list in it has fewer than 3 entries")
    return list(value)


def _text(value: Any, most: int = MAX_TEXT) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:most]


def _number(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _whole(value: Any, most: int = _MAX_NUMBER) -> int:
    if _signed(value, most) < 0:
        raise ValueError("a number in it is negative")
    return int(value)


def _signed(value: Any, most: int = _MAX_NUMBER) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    if not -most <= value < most:
        raise ValueError("a number in it is too large")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1e12 < value < 1e12:
        raise TypeError
    return float(value)
