"""Keeps asking workers that are too slow for the first look, in parallel with the looks at the others.

How this works. Slow is not lost: on a busy machine, a rank that computes in Python needs seconds for what others
answer at once. So a late worker gets the time of the whole command. Two threads ask it in parallel with the other
ranks' looks: one for the same two looks, and one for its stacks alone, which take one request while a look takes
several. If it answers neither in time but runs on this host, py-spy reads it from outside, which stops no process.
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

_GROUPS = 16  # of workers that wait for one another; if fewer are late, each is its own group
_GRACE_S = 1.0  # for threads to report the deadline themselves


class Latecomers:
    """Starts asking late workers; `wait` waits for their answers.

    Args:
        roll: the late workers only.
        interval_s: seconds between the two looks.
        second: the question of the second look.
        deadline: for everything, in `time.monotonic` seconds.

    Attributes:
        first, second: the outcomes of the two looks; empty until they finish.
        stacks: the outcomes of the request for stacks alone.
    """

    def __init__(self, roll: Roll, interval_s: float, second: Question[Sight], deadline: float) -> None:
        self._roll = replace(roll, targets=replace(roll.targets, progress=None))  # the other looks show progress
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
        """Wait until all have answered or the deadline passes; return False if the operator interrupts."""
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
    """Run a thread's work; ignore it if no worker is left to ask, since the first look has reported that."""
    with contextlib.suppress(TorchctlError):
        work()
