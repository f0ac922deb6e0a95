"""Everything that is known about a job, from live workers or from files."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchctl.diagnosis.waits.activity import Activity, activity_of
from torchctl.flightrec.table.trace import Trace
from torchctl.stacks.stack import Stacks


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs; None is not known."""

    host: str | None = None
    pid: int | None = None


@dataclass(slots=True)
class Evidence:
    """What has been seen of a job.

    Attributes:
        trace: all ranks' entries.
        stacks: Python stacks by rank.
        failed: ranks that gave nothing, and why, in words: "did not answer within 3.0 s".
        places: host and process of ranks.
        world_size: as the workers say; None where nobody does.
        moved: ranks whose recorder went on between two samples; None when there was one sample alone.
        live: asked from running workers, at one time.
        left: ranks whose process has ended and left its socket behind.
        interrupted: by the operator, before everything had been asked.
        ended: by the operator, who had it looked at again and again; everything had been asked.
        unasked: ranks that the operator, or the deadline, has left out; nothing is known of them.
        files: what live workers gave, as bytes under the names that it is saved under.
    """

    trace: Trace
    stacks: dict[int, Stacks] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    world_size: int | None = None
    moved: frozenset[int] | None = None
    live: bool = False
    left: frozenset[int] = frozenset()
    files: dict[str, bytes] = field(default_factory=dict)
    interrupted: bool = False
    ended: bool = False
    unasked: frozenset[int] = frozenset()

    def activities(self) -> dict[int, Activity]:
        """Return what each rank with stacks is doing, where that can be told."""
        found = {rank: activity_of(rank, stacks) for rank, stacks in self.stacks.items()}
        return {rank: activity for rank, activity in found.items() if activity is not None}

    def ranks(self) -> list[int]:
        """Return the ranks with evidence of their own, sorted."""
        return sorted({*self.trace.ranks, *self.stacks})

    def size(self) -> int | None:
        """Return the world size, where anything states it."""
        stated = [size for size in (self.world_size, self.trace.world_size) if size]
        return max(stated, default=None)
