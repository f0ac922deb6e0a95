"""Compares several samples of the same workers to find which threads moved.

A thread is still if every sample shows the same frames at the same lines and its worker reported no new training step:
two samples may catch a loop at the same line. A difference of one frame or step counts as moving.
"""

from __future__ import annotations

from torchctl.stacks.merge import Frames
from torchctl.stacks.stack import Stacks


class Motion:
    """What changed from sample to sample; any hashable key identifies a worker.

    Attributes:
        taken: the number of whole samples, counted by `reports.stacks`.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._last: dict[tuple[object, int], Frames] = {}
        self._steps: dict[object, int | None] = {}
        self._moved: dict[object, set[int]] = {}
        self._samples: dict[object, int] = {}

    def add(self, worker: object, stacks: Stacks, step: int | None) -> None:
        """Add one worker's stacks, read with the same `StackReader` as earlier ones, and its step if it has one."""
        self._samples[worker] = self._samples.get(worker, 0) + 1
        moved = self._moved.setdefault(worker, set())
        stepped = self._samples[worker] > 1 and self._steps.get(worker) != step
        self._steps[worker] = step
        for thread in stacks.threads:
            before = self._last.get((worker, thread.ident))
            new = before is None and self._samples[worker] > 1
            if new or (before is not None and before is not thread.frames) or (stepped and thread.main):
                moved.add(thread.ident)
            self._last[worker, thread.ident] = thread.frames

    def moved(self, worker: object) -> frozenset[int] | None:
        """Return the ids of the worker's threads that moved, or None if it was seen only once."""
        return frozenset(self._moved[worker]) if self._samples.get(worker, 0) > 1 else None
