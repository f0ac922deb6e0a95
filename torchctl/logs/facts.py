"""What the logs of a job say together: who waits in what, and who failed, with the ranks as far as they are known.

Source: torch/csrc/distributed/c10d, ProcessGroupNCCL.cpp, ProcessGroupGloo.cpp and ProcessGroupWrapper.cpp (1.13 to
2.13): the messages have changed little, but the prefix that names the process group has changed often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchctl.logs.said import Ended, Event, Line, Raised

_SIGNATURE = re.compile(
    r"Rank (?P<rank>\d{1,6}) is running collective: CollectiveFingerPrint\((?:SequenceNumber=(?P<seq>\d{1,12}), )?"
    r"OpType=(?P<op>\w{1,60}),? ?(?:TensorShape=(?P<shape>\[[\d, ]{0,400}\]))?"
    r"(?:, TensorDtypes=(?P<dtype>[\w, ]{0,100}?),)?"
)
_AT = re.compile(r"(?:at work sequence id|Timeout at NCCL work|by watchdog at work): (\d{1,12})")


@dataclass(frozen=True, slots=True)
class Caught:
    """A collective that a rank's watchdog gave up on; `group` is its description, or else its name or number."""

    rank: int
    group: str
    seq: int
    op: str
    sizes: str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a rank was calling when TORCH_DISTRIBUTED_DEBUG=DETAIL compared the ranks' calls."""

    rank: int
    seq: int | None
    op: str
    shape: str
    dtype: str


@dataclass(slots=True)
class LogFacts:
    """What logs say.

    Attributes:
        ranks: those that have a log, or their own lines in one.
        caught: the first collective that a watchdog gave up on, by rank and group.
        status: last enqueued and last completed work, by rank and group.
        groups: the group of what a watchdog gave up on, by rank and sequence id, if another line names it.
        stuck: ranks whose watchdog itself was stuck, and for how many seconds.
        barrier: ranks that did not pass a monitored barrier.
        signatures: what each rank was calling when the comparison failed.
        lines: the first line that states each of these facts, by rank.
        events, raised, ended: everything else, with the ranks as far as they are known.
        notes: what was ignored, and why.
        count: of the logs.
    """

    ranks: set[int] = field(default_factory=set)
    caught: dict[tuple[int, str], Caught] = field(default_factory=dict)
    status: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    groups: dict[tuple[int, int], str] = field(default_factory=dict)
    stuck: dict[int, int] = field(default_factory=dict)
    barrier: set[int] = field(default_factory=set)
    signatures: dict[int, Signature] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    raised: list[Raised] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def hangs(self) -> bool:
        """Whether anything is about ranks that wait."""
        return bool(self.caught or self.status or self.stuck or self.barrier or self.signatures)

    @property
    def says_anything(self) -> bool:
        return self.hangs or bool(self.raised or self.ended or self.events)

    def by_group(self) -> dict[str, list[Caught]]:
        """Return the caught collectives by group, sorted by rank; "" is a group that no line names."""
        groups: dict[str, list[Caught]] = {}
        for one in sorted(self.caught.values(), key=lambda one: (one.rank, one.seq)):
            groups.setdefault(one.group or self.groups.get((one.rank, one.seq), ""), []).append(one)
        return groups

    def take(self, event: Event) -> None:
        """Add what an event says about ranks that wait."""
        about, rank, name = event.about, event.who.rank, event.pattern.name
        if name == "barrier_failed":
            self.barrier.update(map(int, about["ranks"].split(", ")))
        elif name == "detail_mismatch":
            signatures = [_signature(match) for match in _SIGNATURE.finditer(event.line.text)]
            self.signatures.update((one.rank, one) for one in signatures)
        elif rank is None:
            return
        elif name == "watchdog_timeout" and about["seq"]:
            sizes = about["sizes"].strip()
            one = Caught(rank, _group(about), int(about["seq"]), about["op"].lower(), sizes)
            known = self.caught.get((one.rank, one.group))
            if known is None or one.seq < known.seq:
                self.caught[one.rank, one.group] = one
        elif name == "watchdog_stuck":
            self.stuck[rank] = int(about["seconds"])
        elif about.get("enqueued"):
            group = _group(about)
            self.status[rank, group] = int(about["enqueued"]), int(about["completed"])
            if at := _AT.search(event.line.text):
                self.groups[rank, int(at[1])] = group
        if rank is not None:
            self.ranks.add(rank)
            self.lines.setdefault(rank, event.line)


def _signature(match: re.Match[str]) -> Signature:
    seq = int(match["seq"]) if match["seq"] else None
    return Signature(int(match["rank"]), seq, match["op"].lower(), match["shape"] or "", match["dtype"] or "")


def _group(about: Mapping[str, str]) -> str:
    """Return the group as a line names it, "default_pg"; "" if the line, from an older torch, names none."""
    return about.get("desc") or about.get("old") or about.get("guid") or about.get("id") or ""
