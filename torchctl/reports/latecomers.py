"""Workers that take longer than the first look's share of the time: they are asked on, while the others are looked at.

How this works. Slow is not lost: a rank that computes in Python, on a machine that is busy, needs seconds for what
others answer at once. So a late worker has the time of the whole command. Threads ask it beside the other ranks' looks:
one for the same two looks, and one for its stacks alone, which take one request where a look takes several.
Who has given neither at the end, but runs on this host, is read by py-spy from outside; that stops no process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torchctl.errors import TorchctlError
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.outside import stacks_question
from torchctl.workers.questions.look import Sight, sight_question
from torchctl.workers.roll import Roll
from torchctl.workers.survey import survey

_GROUPS = 16  # of workers that wait for one another; where fewer are late each goes its own way
_GRACE_S = 1.0  # for threads to say in their own words that the deadline came


class Latecomers:
    """Asks late workers from now on; `wait` waits for what they give.

    Args:
        roll: the late workers alone.
        interval_s: seconds between the two looks.
        second: which look the second one is.
        deadline: for all of it, `time.monotonic` seconds.

    Attributes:
        first, second: what the two looks have given; empty until they have come back.
        stacks: what the request for the stacks alone has given.
    """

    def __init__(self, roll: Roll, interval_s: float, second: Question[Sight], deadline: float) -> None:
        self._roll = replace(roll, targets=replace(roll.targets, progress=None))  # the others' looks show theirs
        self._interval_s = interval_s
        self._question = second
        self._deadline = deadline
        self.first: list[Outcome[Sight]] = []
        self.second: list[Outcome[Sight]] = []
        self.stacks: list[Outcome[Reply]] = []
        endpoints = roll.endpoints
        groups = [endpoints[at::_GROUPS] for at in range(min(_GROUPS, len(endpoints)))]
        works = [partial(self._look_twice, group) for group in groups]
        self._threads = [threading.Thread(target=_quietly, args=(work,), daemon=True) for work in works]
        self._threads.append(threading.Thread(target=_quietly, args=(self._take_stacks,), daemon=True))
        for thread in self._threads:
            thread.start()

    def wait(self) -> bool:
        """Wait until all have answered, or the deadline; return False when the operator interrupts."""
        try:
            for thread in self._threads:
                thread.join(max(0.0, self._deadline + _GRACE_S - time.monotonic()))
        except KeyboardInterrupt:
            return False
        return True

    def _look_twice(self, group: list[Endpoint]) -> None:
        first = survey(
            self._roll.only(group).until(self._deadline - self._interval_s), sight_question("counters")
        ).outcomes
        self.first += first
        answered = [one.endpoint for one in first if one.value is not None and not one.value.degraded]
        if answered:
            time.sleep(self._interval_s)
            again = self._roll.only(answered)
            self.second += survey(again.until(self._deadline), self._question).outcomes

    def _take_stacks(self) -> None:
        self.stacks = survey(self._roll.until(self._deadline), stacks_question()).outcomes


def _quietly(work: Callable[[], None]) -> None:
    """Run a thread's work; with no one left to ask there is nothing to say that the first look has not said."""
    with contextlib.suppress(TorchctlError):
        work()
