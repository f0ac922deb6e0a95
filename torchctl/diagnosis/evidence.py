"""Everything that is known about a job, from live workers or from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchctl.diagnosis.deaths import Death
from torchctl.flightrec.table.trace import Trace
from torchctl.logs.facts import LogFacts
from torchctl.manifest import Answer, Entry
from torchctl.stacks.stack import Stacks


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs; None means unknown."""

    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the job whose rank is unknown; `name` is its display name, "node-5 pid 4020"."""

    name: str
    stacks: Stacks
    host: str | None = None
    pid: int | None = None


NOT_READ = "not_read"  # kind of a file that held no evidence, and whose name did not suggest any
ARCHIVE = "is an archive"  # start of the reason for a file that contains other files


@dataclass(frozen=True, slots=True)
class Unread:
    """Stacks that could not be read from `source`, a file or an endpoint; `reason` completes a sentence about it."""

    source: str
    rank: int | None
    reason: str
    kind: str = "bad_file"

    def __str__(self) -> str:
        rank = "" if self.rank is None else f"rank {self.rank}: "
        return f"{rank}{self.source} {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return it in the format that every command uses for `failures`."""
        message = f"{self.source} {self.reason}"
        return {"rank": self.rank, "endpoint": self.source, "kind": self.kind, "message": message}


def no_stacks(endpoint: str, rank: int | None, reason: str) -> Unread:
    """Return the entry for a live worker that gave no stacks, with the reason."""
    return Unread(endpoint, rank, f"gave no stacks: {reason}", "no_stacks")


def cannot_answer(why: str) -> str:
    """Return the reason for a worker whose sentinel answers in its place; it completes "rank 3: "."""
    return f"cannot answer for itself: {why}"


@dataclass(frozen=True, slots=True)
class Degraded:
    """A rank that cannot answer for itself, as its sentinel sees it.

    Attributes:
        since: when this was first seen, by its host's clock, in seconds since the epoch; None if unknown.
        stacks: read from outside; None if that failed.
    """

    why: str
    since: float | None = None
    stacks: Stacks | None = None


@dataclass(frozen=True, slots=True)
class Computing:
    """A rank that has used CPU time while others waited for it.

    Attributes:
        cpu_share: of a core, by its main thread between two looks.
        goes_on: its stack went from call to call in several samples; a loop's stays in one function.
    """

    cpu_share: float
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What a live worker returned, to be saved in a folder: the manifest entry, and the answers by part."""

    entry: Entry
    answers: Mapping[str, Answer]


@dataclass(slots=True)
class Evidence:
    """Everything known about a job.

    Attributes:
        trace: all ranks' entries.
        stacks: Python stacks by rank.
        failed: ranks that gave nothing, and why, in words: "did not answer within 3.0 s".
        degraded: the failed ranks whose sentinels answered. Their stacks prove nothing about operations: a stopped
            process is read in the middle of something that it will not continue.
        no_dump: ranks that gave stacks but no dump, and why.
        places: each rank's host and process.
        world_size: as the workers report it; None if none does.
        moved: ranks whose recorder advanced between two samples; None if there was only one sample.
        live: the evidence comes from running workers, asked at the same time.
        silent: the failed ranks whose process is running: slow or held up, but not lost.
        left: ranks whose process has ended and left its socket behind.
        interrupted: the operator interrupted before every rank was asked.
        ended: the operator ended a repeated look; every rank had been asked.
        unasked: ranks that were not asked, because of the operator or the deadline; nothing is known about them.
        still: ranks whose own thread slept at one place from look to look, whatever their other threads did.
        computing: of the ranks that others wait for, those that have used CPU time between two looks.
        kept: what live workers returned, unchanged.
        unread: files that gave no stacks.
        processes: those with stacks whose rank is unknown.
        logs: what the ranks' logs say.
        deaths: how processes of the job ended, by their last words; of one attempt at the job.
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
    computing: dict[int, Computing] = field(default_factory=dict)
    still: frozenset[int] = frozenset()
    kept: list[Kept] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    logs: LogFacts = field(default_factory=LogFacts)
    deaths: list[Death] = field(default_factory=list)
    interrupted: bool = False
    ended: bool = False
    unasked: frozenset[int] = frozenset()

    def ranks(self) -> list[int]:
        """Return the ranks with a dump or stacks, sorted."""
        return sorted({*self.trace.ranks, *self.stacks})

    def alive(self) -> set[int]:
        """Return the ranks with a dump or stacks that left no last word."""
        return set(self.ranks()) - {one.rank for one in self.deaths if one.rank is not None}

    def size(self) -> int | None:
        """Return the world size, or None if nothing states it."""
        stated = [size for size in (self.world_size, self.trace.world_size) if size]
        return max(stated, default=None)
