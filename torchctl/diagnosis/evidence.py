"""Everything that is known about a job, from live workers or from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchctl.diagnosis.logs import LogFacts
from torchctl.flightrec.table.trace import Trace
from torchctl.manifest import Answer, Entry
from torchctl.stacks.stack import Stacks


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs; None is not known."""

    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the job whose rank nothing says; `name` is what it is called, "node-5 pid 4020"."""

    name: str
    stacks: Stacks
    host: str | None = None
    pid: int | None = None


NOT_READ = "not_read"  # the kind of a file that was no evidence, and whose name does not say that it should be
ARCHIVE = "is an archive"  # how the reason begins of a file that holds others


@dataclass(frozen=True, slots=True)
class Unread:
    """Stacks that could not be obtained, from a file or from a worker at an endpoint; `reason` is read after either."""

    source: str
    rank: int | None
    reason: str
    kind: str = "bad_file"

    def __str__(self) -> str:
        rank = "" if self.rank is None else f"rank {self.rank}: "
        return f"{rank}{self.source} {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return it in the form that all commands' `failures` have."""
        message = f"{self.source} {self.reason}"
        return {"rank": self.rank, "endpoint": self.source, "kind": self.kind, "message": message}


def no_stacks(endpoint: str, rank: int | None, reason: str) -> Unread:
    """Return that a live worker gave no stacks, and why not."""
    return Unread(endpoint, rank, f"gave no stacks: {reason}", "no_stacks")


def cannot_answer(why: str) -> str:
    """Return why there is nothing from a worker whose sentinel answers in its place; read after "rank 3: "."""
    return f"cannot answer for itself: {why}"


@dataclass(frozen=True, slots=True)
class Degraded:
    """A rank that cannot answer for itself, as its sentinel sees it.

    Attributes:
        since: when that was first seen, by its host's clock, in seconds since the epoch; None is not known.
        stacks: read from outside; None if they could not be.
    """

    why: str
    since: float | None = None
    stacks: Stacks | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a live worker gave, for a folder: the manifest's entry, and the answers by part."""

    entry: Entry
    answers: Mapping[str, Answer]


@dataclass(slots=True)
class Evidence:
    """What has been seen of a job.

    Attributes:
        trace: all ranks' entries.
        stacks: Python stacks by rank.
        failed: ranks that gave nothing, and why, in words: "did not answer within 3.0 s".
        degraded: of the failed, those whose sentinels answered. Their stacks prove nothing about operations: a stopped
            process is read in the midst of what it will not go on with.
        no_dump: ranks that gave stacks and no dump, and why.
        places: host and process of ranks.
        world_size: as the workers say; None if no one does.
        moved: ranks whose recorder went on between two samples; None when there was one sample alone.
        live: asked from running workers, at one time.
        silent: of the failed, those whose process runs: slow or held, but not lost.
        left: ranks whose process has ended and left its socket behind.
        interrupted: by the operator, before everything had been asked.
        ended: by the operator, who had it looked at again and again; everything had been asked.
        unasked: ranks that the operator, or the deadline, has left out; nothing is known of them.
        kept: what live workers gave, as it came.
        unread: files that gave no stacks.
        processes: those with stacks whose rank nothing says.
        logs: what the ranks' logs say of a hang.
    """

    trace: Trace
    stacks: dict[int, Stacks] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    degraded: dict[int, Degraded] = field(default_factory=dict)
    no_dump: dict[int, str] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    world_size: int | None = None
    moved: frozenset[int] | None = None
    live: bool = False
    silent: frozenset[int] = frozenset()
    left: frozenset[int] = frozenset()
    kept: list[Kept] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    logs: LogFacts = field(default_factory=LogFacts)
    interrupted: bool = False
    ended: bool = False
    unasked: frozenset[int] = frozenset()

    def ranks(self) -> list[int]:
        """Return the ranks with evidence of their own, sorted."""
        return sorted({*self.trace.ranks, *self.stacks})

    def size(self) -> int | None:
        """Return the world size, where anything states it."""
        stated = [size for size in (self.world_size, self.trace.world_size) if size]
        return max(stated, default=None)
