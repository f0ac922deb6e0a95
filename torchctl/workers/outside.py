"""Read stacks with py-spy from outside, for workers on this host that do not answer."""

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

NO_ANSWER = "does not answer"  # why stacks were read from outside, if nothing else is known
OUTSIDE_S = 2.0  # allowed for py-spy even if the deadline is close


def stacks_question() -> Question[Reply]:
    """Return the question for stacks as plain text, the form in which they are saved."""
    return call_question("dump_traceback", {"format": "text", CALLS_PARAMETER: "true"}, b"")


def look_from_outside(
    silent: Iterable[Endpoint], deadline: float, *, stopped: bool = False
) -> list[tuple[Endpoint, Reply]]:
    """Return the stacks that py-spy reads from workers on this host that do not answer.

    Processes that cannot be read are skipped, and so are stopped ones unless `stopped`.
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
