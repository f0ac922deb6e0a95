"""The question for everything that a worker reports: info, stacks and traces, in turn.

How this works: an earlier run may already have some parts. They came from one process, so the worker is first asked
for its identity, and a process that has replaced it is asked for everything. The question includes which parts we
already have, so that a relay on another host sends exactly the requests that the asking side will replay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torchctl.errors import NoSuchHandlerError, WorkerError
from torchctl.manifest import GENERIC_TRACE, INFO, STACKS, TRACE
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import handler_request
from torchctl.workers.questions import relayed
from torchctl.workers.questions.recorders import first_trace, generic_trace, is_generic

PARTS = (INFO, STACKS, TRACE, GENERIC_TRACE)


class Had(NamedTuple):
    """The parts that an earlier run got from a worker, and from which process (None if it did not say)."""

    pid: int | None
    parts: tuple[str, ...]


def read_had(document: Any) -> dict[str, Had]:
    """Return what an earlier run got, by the worker's path on its host, from an errand's arguments.

    Raises:
        ValueError, TypeError, AttributeError: the arguments are malformed.
    """
    had = {}
    for path, (pid, parts) in document.items():
        if not (pid is None or isinstance(pid, int)) or not set(parts) <= set(PARTS):
            raise ValueError("the arguments of `everything` are in an unexpected form")
        had[path] = Had(pid, tuple(parts))
    return had


class Everything(Question[None]):
    """Asks for everything and keeps nothing, for relays, which only need the transcript."""

    name = "everything"

    def __init__(self, had: Mapping[str, Had]) -> None:
        super().__init__(lambda endpoint: ask_parts(had.get(str(endpoint)), lambda part, answer: None, lambda: None))


@relayed("everything")
def _relayed_everything(arguments: Mapping[str, Any]) -> Everything:
    return Everything(read_had(arguments["had"]))


def ask_parts(
    had: Had | None, take: Callable[[str, Reply | WorkerError], None], renew: Callable[[], None]
) -> Asking[None]:
    """Ask for the parts in turn; continue after a failure if anything has arrived.

    Stacks come before traces, because a process's first dump takes a second. On torch's own server they come last,
    because it answers traces without the GIL but hangs on stacks. It is recognized by its missing `info`.

    Args:
        had: the parts from an earlier run; None for none.
        take: called with each part's answer, or with the error.
        renew: called if the process that answers is not the one that sent the earlier parts.
    """
    parts = list(PARTS)
    answering = False
    if had is not None:
        reply = yield handler_request("ping")
        if reply.pid == had.pid or None in (reply.pid, had.pid):
            parts = [part for part in PARTS if part not in had.parts]
            answering = True
        else:
            renew()
    while parts:
        part = parts.pop(0)
        try:
            reply = yield from _part(part)
        except WorkerError as error:
            take(part, error)
            if part == INFO and isinstance(error, NoSuchHandlerError):
                parts = [one for one in (TRACE, GENERIC_TRACE, STACKS) if one in parts]
            if not answering and not isinstance(error, NoSuchHandlerError):
                raise
        else:
            answering = True
            take(part, reply)
            if part == TRACE and is_generic(reply) and GENERIC_TRACE in parts:
                parts.remove(GENERIC_TRACE)  # a worker without NCCL has already sent it


def _part(part: str) -> Asking[Reply]:
    if part == INFO:
        return (yield handler_request("info", max_bytes=1 << 20))
    if part == STACKS:
        return (yield handler_request("dump_traceback", {CALLS_PARAMETER: "true"}))
    if part == TRACE:
        return (yield first_trace())
    return (yield from generic_trace())
