"""What ranks' logs say about a hang: timeouts that watchdogs caught, barriers that ranks did not pass, mismatches.

Source: torch/csrc/distributed/c10d, ProcessGroupNCCL.cpp, ProcessGroupGloo.cpp and ProcessGroupWrapper.cpp (2.1 to
2.13): the messages have changed little, but the prefix that names the process group has changed often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_MAX_LINE = 4000
_RANK = (
    r"(?:\[PG (?:ID )?(?P<id>\d{1,9})(?: PG GUID (?P<guid>[^\s(\]]{1,200})(?:\((?P<desc>[^)\]]{0,200})\))?)? |\[)"
    r"Rank (?P<rank>\d{1,6})\]"
)
_PREFIX = re.compile(r"\[rank(\d{1,6})\]", re.IGNORECASE)
_TIMEOUT = re.compile(
    rf"{_RANK} {{1,2}}Watchdog caught collective operation timeout: WorkNCCL\(SeqNum=(?P<seq>\d{{1,12}}),"
    r" OpType=(?P<op>\w{1,60}),(?: (?P<sizes>.{0,400}?),)? Timeout\(ms\)=(?P<timeout>\d{1,12})\)"
)
_STATUS = re.compile(
    rf"{_RANK} .{{0,300}}?[Ll]ast enqueued (?:NCCL )?work: (?P<enqueued>-?\d{{1,12}}), last completed (?:NCCL )?work:"
    r" (?P<completed>-?\d{1,12})"
)
_AT = re.compile(r"(?:at work sequence id|Timeout at NCCL work|by watchdog at work): (\d{1,12})")
_STUCK = re.compile(rf"{_RANK} .{{0,60}}watchdog got stuck for (?P<seconds>\d{{1,9}}) seconds")
_BARRIER = re.compile(r"\[Rank \d{1,6}\]: Ranks? (?P<ranks>\d{1,6}(?:, \d{1,6})*) failed to pass monitoredBarrier")
_SIGNATURE = re.compile(
    r"Rank (?P<rank>\d{1,6}) is running collective: CollectiveFingerPrint\((?:SequenceNumber=(?P<seq>\d{1,12}), )?"
    r"OpType=(?P<op>\w{1,60}),? ?(?:TensorShape=(?P<shape>\[[\d, ]{0,400}\]))?"
    r"(?:, TensorDtypes=(?P<dtype>[\w, ]{0,100}?),)?"
)
# A cheap filter: a line without any of these matches no pattern above.
_WORDS = ("Watchdog caught", "nqueued", "watchdog got stuck", "monitoredBarrier", "CollectiveFingerPrint")


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
    """

    ranks: set[int] = field(default_factory=set)
    caught: dict[tuple[int, str], Caught] = field(default_factory=dict)
    status: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    groups: dict[tuple[int, int], str] = field(default_factory=dict)
    stuck: dict[int, int] = field(default_factory=dict)
    barrier: set[int] = field(default_factory=set)
    signatures: dict[int, Signature] = field(default_factory=dict)

    @property
    def says_anything(self) -> bool:
        return bool(self.caught or self.status or self.stuck or self.barrier or self.signatures)

    def by_group(self) -> dict[str, list[Caught]]:
        """Return the caught collectives by group, sorted by rank; "" is a group that no line names."""
        groups: dict[str, list[Caught]] = {}
        for one in sorted(self.caught.values(), key=lambda one: (one.rank, one.seq)):
            groups.setdefault(one.group or self.groups.get((one.rank, one.seq), ""), []).append(one)
        return groups

    def add(self, text: str, rank: int | None) -> bool:
        """Add what a log says; return whether it says anything about a hang.

        Args:
            rank: the rank that wrote the log, if its file name says so.
        """
        if rank is not None:
            self.ranks.add(rank)
        self.ranks.update(map(int, _PREFIX.findall(text)))
        found = False
        if not any(word in text for word in _WORDS):
            return False
        for line in text.split("\n"):
            if any(word in line for word in _WORDS):
                found |= self._take(line[:_MAX_LINE])
        return found

    def _take(self, line: str) -> bool:
        if match := _TIMEOUT.search(line):
            op, sizes = match["op"].lower(), (match["sizes"] or "").strip()
            one = Caught(int(match["rank"]), _group(match), int(match["seq"]), op, sizes)
            known = self.caught.get((one.rank, one.group))
            if known is None or one.seq < known.seq:
                self.caught[one.rank, one.group] = one
            self.ranks.add(one.rank)
            return True
        if match := _STUCK.search(line):
            self.stuck[int(match["rank"])] = int(match["seconds"])
            return True
        if match := _STATUS.search(line):
            rank, group = int(match["rank"]), _group(match)
            self.status[rank, group] = int(match["enqueued"]), int(match["completed"])
            if at := _AT.search(line):
                self.groups[rank, int(at[1])] = group
            self.ranks.add(rank)
            return True
        if match := _BARRIER.search(line):
            self.barrier.update(map(int, match["ranks"].split(", ")))
            return True
        signatures = [_signature(match) for match in _SIGNATURE.finditer(line)]
        self.signatures.update((one.rank, one) for one in signatures)
        return bool(signatures)


def _signature(match: re.Match[str]) -> Signature:
    seq = int(match["seq"]) if match["seq"] else None
    return Signature(int(match["rank"]), seq, match["op"].lower(), match["shape"] or "", match["dtype"] or "")


def _group(match: re.Match[str]) -> str:
    """Return the group as a line names it, "default_pg"; "" if the line, from an older torch, names none."""
    return match["desc"] or match["guid"] or match["id"] or ""
