"""Stacks read by py-spy from outside: of workers that do not answer, and whose processes are on this host."""

from __future__ import annotations

from collections.abc import Iterable

from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import listener, running_listener
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import call_question

NO_ANSWER = "does not answer"  # why stacks are read from outside where nothing else is known
OUTSIDE_S = 2.0  # for looking from outside, however late it is


def stacks_question() -> Question[Reply]:
    """Return the question for the bare stacks, as they are saved."""
    return call_question("dump_traceback", {"format": "text", CALLS_PARAMETER: "true"}, b"")


def look_from_outside(
    silent: Iterable[Endpoint], deadline: float, *, stopped: bool = False
) -> list[tuple[Endpoint, Reply]]:
    """Return the stacks that py-spy reads of workers that do not answer and whose processes are on this host.

    A process that cannot be read is left out, and so is a stopped one unless `stopped`.
    """
    find = listener if stopped else running_listener
    listeners = {one: pid for one in silent if not one.node and (pid := find(one)) is not None}
    processes = {Endpoint(pid=pid, rank=one.rank): one for one, pid in listeners.items()}
    outcomes: list[Outcome[Reply]] = ask_all(list(processes), stacks_question(), deadline) if processes else []
    return [
        (processes[one.endpoint], one.value)
        for one in outcomes
        if one.value is not None and one.identity.degraded is None
    ]
