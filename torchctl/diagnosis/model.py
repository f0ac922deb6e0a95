"""The result of a diagnosis: findings, each with its culprits, waiting ranks and evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "not_entered",
    "order_cycle",
    "op_mismatch",
    "shape_mismatch",
    "dtype_mismatch",
    "p2p_mismatch",
    "rank_lost",
    "stuck_running",
    "straggler",
    "stack_outlier",
    "timed_out",
    "bad_file",
    "failed",
    "out_of_memory",
    "device_error",
    "killed",
    "node_lost",
    "launcher",
]
DEATHS = ("failed", "out_of_memory", "device_error", "killed", "node_lost", "launcher")
Confidence = Literal["certain", "likely", "possible"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a rank, or a process without a known rank, is in the user's code."""

    rank: int | None
    file: str
    line: int
    function: str
    process: str = ""

    @property
    def who(self) -> str:
        return self.process if self.rank is None else f"rank {self.rank}"


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process whose rank is unknown: its display name, and its host and pid if they are known."""

    name: str
    host: str | None
    pid: int | None

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "host": self.host, "pid": self.pid}


@dataclass(frozen=True, slots=True)
class GroupName:
    """The process group of a finding; `known` is False if the members are inferred."""

    name: str
    desc: str
    ranks: tuple[int, ...]
    known: bool


@dataclass(frozen=True, slots=True)
class Collective:
    """The operation of a finding, as recorded by a rank inside it."""

    op: str
    seq_id: int | None
    is_p2p: bool
    input_sizes: tuple[tuple[int, ...], ...]
    output_sizes: tuple[tuple[int, ...], ...]
    dtype: str
    since_ns: int | None = None  # when the first rank entered it, by that rank's clock


@dataclass(slots=True)
class Finding:
    """One cause, or the consequence of another finding.

    Attributes:
        culprit_ranks: the ranks to blame; empty if none can be named.
        waiting_ranks: the ranks that wait because of it, without the culprits.
        caused_by: index of the finding that this one follows from.
        lateness_ms: a straggler's median and 99th percentile.
        culprit_processes, waiting_processes: the same for processes whose rank is unknown.
    """

    kind: Kind
    confidence: Confidence
    summary: str
    culprit_ranks: tuple[int, ...] = ()
    waiting_ranks: tuple[int, ...] = ()
    group: GroupName | None = None
    collective: Collective | None = None
    location: Location | None = None
    evidence: list[str] = field(default_factory=list)
    caused_by: int | None = None
    lateness_ms: tuple[float, float] | None = None
    culprit_processes: tuple[ProcessName, ...] = ()
    waiting_processes: tuple[ProcessName, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding in schema `torchctl.diagnosis/1`."""
        group, collective, location = self.group, self.collective, self.location
        return {
            "kind": self.kind,
            "confidence": self.confidence,
            "summary": self.summary,
            "culprit_ranks": list(self.culprit_ranks),
            "waiting_ranks": list(self.waiting_ranks),
            "culprit_processes": [one.as_dict() for one in self.culprit_processes],
            "waiting_processes": [one.as_dict() for one in self.waiting_processes],
            "process_group": None
            if group is None
            else {"name": group.name, "desc": group.desc, "ranks": list(group.ranks)},
            "collective": None
            if collective is None
            else {
                "op": collective.op,
                "seq_id": collective.seq_id,
                "is_p2p": collective.is_p2p,
                "input_sizes": [list(sizes) for sizes in collective.input_sizes],
                "output_sizes": [list(sizes) for sizes in collective.output_sizes],
                "dtype": collective.dtype,
            },
            "location": None
            if location is None
            else {
                "rank": location.rank,
                "process": location.process or None,
                "file": location.file,
                "line": location.line,
                "function": location.function,
            },
            "evidence": list(self.evidence),
            "caused_by": self.caused_by,
        }


@dataclass(slots=True)
class Diagnosis:
    """What is wrong with a job.

    Attributes:
        healthy: None if that cannot be determined; `unknown` then says what is missing.
        verdict: one sentence.
        seen, missing: ranks with evidence, and ranks of the job without any.
        failed: ranks whose evidence could not be obtained, and why.
        findings: root causes first, and those with the most waiting ranks first.
        processes: those with stacks whose rank is unknown.
        store_keys: keys that ranks wait for and that no rank is seen to set.
    """

    healthy: bool | None
    verdict: str
    world_size: int | None
    seen: list[int]
    missing: list[int]
    failed: dict[int, str]
    findings: list[Finding]
    unknown: list[str] = field(default_factory=list)
    processes: list[ProcessName] = field(default_factory=list)
    store_keys: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis in schema `torchctl.diagnosis/1`, without the schema's name."""
        return {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "ranks": {
                "world_size": self.world_size,
                "seen": self.seen,
                "missing": self.missing,
                "failed": {str(rank): reason for rank, reason in sorted(self.failed.items())},
            },
            "processes": [one.as_dict() for one in self.processes],
            "findings": [finding.as_dict() for finding in self.findings],
        }
