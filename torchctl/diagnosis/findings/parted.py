"""Decide findings in which either side may be wrong, by which rank's path has diverged from its sisters'.

How this works. If two ranks wait for each other, or one waits for all the others, a single group does not show who is
wrong. Sister groups and the lines of the user's code do: the paths diverge at the first place where one rank does not
do what most ranks of the same program do. If exactly one of the ranks involved has left the path, it is named, with
both lines; if none has, or several have, the finding stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchctl.diagnosis.findings.court import Court
from torchctl.diagnosis.findings.words import group_words, ranks_of, verb
from torchctl.diagnosis.model import Finding, Location
from torchctl.diagnosis.waits.parting import Departure, departures, departures_in_group
from torchctl.diagnosis.waits.tallies import odd_one

_DECIDABLE = ("order_cycle", "op_mismatch", "shape_mismatch", "dtype_mismatch", "p2p_mismatch", "not_entered")
_MAX_INVOLVED = 32


def decide(court: Court, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, with one rank named in those that left open which side is wrong."""
    decided: list[Finding] = []
    for finding in findings:
        one = _decided(court, finding) if _is_open(finding) else None
        if one is None:
            decided.append(finding)
        elif not any(one.culprit_ranks == other.culprit_ranks and one.evidence == other.evidence for other in decided):
            decided.append(one)
    return decided


def _is_open(finding: Finding) -> bool:
    """Whether the other side of a finding may be the wrong one."""
    if finding.kind not in _DECIDABLE:
        return False
    if finding.kind == "order_cycle" or not finding.culprit_ranks:
        return True
    if finding.kind == "p2p_mismatch":
        return len(finding.culprit_ranks) > 1
    size = len(finding.group.ranks) if finding.group is not None else 0
    return finding.kind == "not_entered" and len(finding.culprit_ranks) * 2 >= size


def _decided(court: Court, finding: Finding) -> Finding | None:
    """Return the finding about the one rank that has left the path; None unless exactly one has."""
    members = finding.group.ranks if finding.group is not None else ()
    close = list(dict.fromkeys([*finding.culprit_ranks, *members]))
    involved = list(dict.fromkeys([*close, *finding.waiting_ranks]))[:_MAX_INVOLVED]
    found = departures(court.trace, court.proofs.windows, involved)
    parted = {rank: places[-1] for rank, places in found.items() if _counts(court, finding, places[-1])}
    chosen = [rank for rank in close if rank in parted] or list(parted)
    if not chosen and members:
        parted = _in_group(court, finding)
        chosen = list(parted)
    if len(chosen) != 1:
        return _counted(court, finding, close)
    place = parted[chosen[0]]
    rest = {*finding.waiting_ranks, *finding.culprit_ranks, *(members if not finding.culprit_ranks else ())}
    waiting = tuple(sorted(rest - {place.rank}))
    frame = court.frame(place.row)
    location = Location(place.rank, frame.filename, frame.line, frame.name) if frame is not None else None
    summary = _says(court, place)
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
    kind = "op_mismatch" if finding.kind == "not_entered" else finding.kind
    return replace(
        finding,
        kind=kind,
        confidence="likely",
        summary=summary,
        culprit_ranks=(place.rank,),
        waiting_ranks=waiting,
        location=location or finding.location,
        evidence=[*_lines(court, place), *finding.evidence][:16],
    )


def _in_group(court: Court, finding: Finding) -> dict[int, Departure]:
    """Return, by rank, where members' calls within the finding's group diverge from those of the other members."""
    name = finding.group
    numbers = [
        number for number, group in enumerate(court.trace.groups)
        if name is not None and (group.name, group.members) == (name.name, name.ranks)
    ]  # fmt: skip
    if len(numbers) != 1:
        return {}
    found = departures_in_group(court.trace, court.proofs.windows, numbers[0])
    return {rank: places[-1] for rank, places in found.items() if _counts(court, finding, places[-1])}


def _counted(court: Court, finding: Finding, close: Sequence[int]) -> Finding | None:
    """Return the finding about the one rank of a circle whose counts differ from its sisters', or None."""
    if finding.kind != "order_cycle":
        return None
    odd = odd_one(court.trace, [*close, *finding.waiting_ranks])
    if odd is None:
        return None
    waiting = tuple(sorted({*finding.waiting_ranks, *finding.culprit_ranks} - {odd.rank}))
    more = "more" if odd.count > odd.others else "fewer"
    difference = abs(odd.count - odd.others)
    summary = (
        f"rank {odd.rank} has launched {difference} {more} in its {odd.desc} group than {ranks_of(odd.sisters)} in"
        f" theirs, before {_call(court, odd.row)}"
    )
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
    frame = court.frame(odd.row)
    location = Location(odd.rank, frame.filename, frame.line, frame.name) if frame is not None else None
    lines = [
        f"rank {odd.rank}: the last sequence id of {odd.desc} before it is {odd.count}",
        f"{ranks_of(odd.sisters)}: it is {odd.others}",
    ]
    return replace(
        finding,
        summary=summary,
        culprit_ranks=(odd.rank,),
        waiting_ranks=waiting,
        location=location,
        evidence=[*lines, *finding.evidence][:16],
    )


def _counts(court: Court, finding: Finding, place: Departure) -> bool:
    """Whether a departure shows who is wrong; a single different call does only if it is what ranks disagree on."""
    if place.how != "another" or (place.last and finding.kind == "order_cycle"):
        return True
    collective = finding.collective
    outside = set(place.sisters) - set(finding.group.ranks if finding.group is not None else ())
    return (
        len(outside) > 1  # within the group, the majority was considered already
        and finding.kind.endswith("_mismatch")
        and collective is not None
        and collective.seq_id == int(court.trace.seq[place.row])
        and finding.group is not None
        and finding.group.ranks == court.trace.groups[int(court.trace.group[place.row])].members
    )


def _says(court: Court, place: Departure) -> str:
    """Return in words what a rank does that its sisters do not."""
    who, others = f"rank {place.rank}", ranks_of(place.sisters)
    own, theirs = _call(court, place.row), _call(court, place.others)
    if place.how == "extra":
        return f"{who} makes a call that {others} do not make: {own}"
    if place.how == "skipped":
        return f"{who} leaves out a call that {others} make: {theirs}"
    if place.how == "swapped":
        return f"{who} calls {own} before {theirs}, which {others} call first"
    return f"{who} calls {own} where {others} call {theirs}"


def _call(court: Court, row: int) -> str:
    collective, group = court.collective_of_row(row, [row])
    seq = f" (sequence id {collective.seq_id} of {group_words(group)})" if collective.seq_id is not None else ""
    return f"{collective.op}{seq}"


def _lines(court: Court, place: Departure) -> list[str]:
    """Return what both sides do where their paths diverge."""
    found = []
    for who, row in ((f"rank {place.rank}", place.row), (ranks_of(place.sisters), place.others)):
        frame = court.frame(row)
        at = f" at {frame.filename}:{frame.line} ({frame.name})" if frame is not None else ""
        found.append(f"{who}: {_call(court, row)}{at}")
    return [f"the paths diverge here: {found[0]}", found[1]]
