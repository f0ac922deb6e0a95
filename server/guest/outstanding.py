"""Sends and receives that this process has begun and not waited for, if recording is on.

How this works: isend, irecv and batch_isend_irecv all end in a process group's `send`, `recv` and `recv_anysource`.
We wrap these, not torch.distributed's functions, since torch compares those by identity. A record holds only numbers
and a name, under a weak reference to the Work that torch returned: it is dropped when the Work is freed or has been
waited for. In a coalesced batch, the single Work that closes it represents all its members.

Source: torch/distributed/distributed_c10d.py and torch/csrc/distributed/c10d/init.cpp (torch 2.13).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_RECORDED = 65_536  # a program with more than that never waits for any


class Begun(NamedTuple):
    """One send or receive; `peer` is a rank in the group, None for any; `since` is in seconds since the epoch."""

    operation: str
    peer: int | None
    tag: int | None
    group: str
    since: float


class _Reference(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("key",)
    key: int


_open: dict[int, tuple[_Reference, tuple[Begun, ...]]] = {}
# By the id of a group that is inside a batch: what has begun in that batch.
_batches: dict[int, list[Begun]] = {}
_originals: dict[tuple[Any, str], Any] = {}


def is_recording() -> bool:
    """Return whether this process records sends and receives."""
    return bool(_originals)


def all_begun() -> list[Begun]:
    """Return what is outstanding now, oldest first."""
    return [one for _, several in list(_open.values()) for one in several]


def begun_of(work: Any) -> Begun | None:
    """Return the send or receive of a Work (for a batch, the first one), or None if unknown."""
    found = _open.get(id(work))
    return found[1][0] if found is not None and found[0]() is work and found[1] else None


def record(bindings: Any) -> bool:
    """Start recording, once; return whether torch's distributed bindings have the classes to wrap."""
    groups, work = getattr(bindings, "ProcessGroup", None), getattr(bindings, "Work", None)
    if groups is None or work is None:
        return False
    if _originals:
        return True
    _wrap(groups, "send", lambda original: _beginning(original, "isend", 1, 2))
    _wrap(groups, "recv", lambda original: _beginning(original, "irecv", 1, 2))
    _wrap(groups, "recv_anysource", lambda original: _beginning(original, "irecv", None, 1))
    _wrap(groups, "_start_coalescing", _starting)
    _wrap(groups, "_end_coalescing", _ending)
    _wrap(work, "wait", _waiting)
    return True


def stop() -> None:
    """Put torch's own functions back and forget everything."""
    for (owner, name), original in _originals.items():
        setattr(owner, name, original)
    _originals.clear()
    _open.clear()
    _batches.clear()


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    original = vars(owner).get(name)
    if original is not None:
        _originals[owner, name] = original
        setattr(owner, name, wrapper(getattr(owner, name)))


def _beginning(original: Any, operation: str, peer_at: int | None, tag_at: int) -> Any:
    """Return a `send` or `recv` that records what it begins; `peer_at` and `tag_at` are argument positions."""
    now = time.time

    def begin(group: Any, *arguments: Any, **named: Any) -> Any:
        work = original(group, *arguments, **named)
        if work is not None and len(arguments) > tag_at:
            peer = None if peer_at is None else arguments[peer_at]
            one = Begun(operation, peer, arguments[tag_at], group.group_name, now())
            batch = _batches.get(id(group))
            if batch is not None:
                batch.append(one)
            else:
                _note(work, (one,))
        return work

    return begin


def _starting(original: Any) -> Any:
    def start(group: Any, *arguments: Any, **named: Any) -> Any:
        result = original(group, *arguments, **named)
        _batches[id(group)] = []
        return result

    return start


def _ending(original: Any) -> Any:
    def end(group: Any, *arguments: Any, **named: Any) -> Any:
        batch = _batches.pop(id(group), None)
        work = original(group, *arguments, **named)
        if batch and work is not None:
            _note(work, tuple(batch))
        return work

    return end


def _waiting(original: Any) -> Any:
    def wait(work: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return original(work, *arguments, **named)
        finally:
            _open.pop(id(work), None)

    return wait


def _note(work: Any, begun: tuple[Begun, ...]) -> None:
    if len(_open) < MAX_RECORDED:
        reference = _Reference(work, _forget)
        reference.key = id(work)
        _open[reference.key] = (reference, begun)


def _forget(reference: _Reference) -> None:
    found = _open.get(reference.key)
    if found is not None and found[0] is reference:  # another Work may have the same id by now
        del _open[reference.key]
