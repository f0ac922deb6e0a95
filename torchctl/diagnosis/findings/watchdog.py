"""What ranks' logs prove if there is no dump: who was in what when a watchdog gave up, and whose log says nothing.

How this works. Each member of a group waits for the others in the same collective, and its watchdog logs that after the
timeout. A rank of the default group whose log says nothing was not in that collective. If ranks were in different
collectives, or in one with different sizes, those that differ from the majority are named; a tie names none. Sizes are
compared as the library logs them, so collectives whose sizes differ by design are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from torchctl.diagnosis.findings.words import joined, ranks_of, verb
from torchctl.diagnosis.model import Collective, Confidence, Finding, GroupName, Kind
from torchctl.logs.facts import Caught, LogFacts, Signature
from torchctl.text import duration

_MOST_LINES = 3
_DEFAULT = ("default_pg", "0")
_SILENT = "have a log that does not mention a timeout"
_UNEVEN = ("alltoall", "all_to_all", "scatter", "gather", "send", "recv", "coalesced", "reduce_scatter")
_EVEN = ("allgather", "_allgather_base", "reduce_scatter", "_reduce_scatter_base")


def from_logs(logs: LogFacts) -> tuple[list[Finding], list[str]]:
    """Return what logs prove, and what they leave open, in words."""
    if logs.signatures:
        return _with_lines(logs, *_different_calls(logs.signatures))
    if logs.barrier:
        return _with_lines(logs, [_barrier(logs)], [])
    findings: list[Finding] = []
    unknown: list[str] = []
    for group, caught in logs.by_group().items():
        for made in _of_group(logs, group, caught):
            (findings if isinstance(made, Finding) else unknown).append(made)  # type: ignore[arg-type]
    if logs.stuck:
        ranks = sorted(logs.stuck)
        unknown.append(
            f"the {verb(ranks, 'watchdog', 'watchdogs')} of {ranks_of(ranks)} made no progress for"
            f" {duration(max(logs.stuck.values()))}: a CUDA or NCCL call hangs there, or the interpreter lock is held"
        )
    if not findings and not logs.caught and logs.status:
        ranks = sorted({rank for rank, _ in logs.status})
        unknown.append(
            f"the {verb(ranks, 'log', 'logs')} of {ranks_of(ranks)} only {verb(ranks, 'reports', 'report')} that"
            " another rank timed out: that rank's own log shows in which operation"
        )
    return _with_lines(logs, findings, unknown)


def _with_lines(logs: LogFacts, findings: list[Finding], unknown: list[str]) -> tuple[list[Finding], list[str]]:
    """Add the first lines that findings rest on."""
    for finding in findings:
        ranks = [rank for rank in (*finding.culprit_ranks, *finding.waiting_ranks) if rank in logs.lines]
        finding.evidence += [str(logs.lines[rank]) for rank in ranks[:_MOST_LINES]]
    return findings, unknown


def _different_calls(signatures: Mapping[int, Signature]) -> tuple[list[Finding], list[str]]:
    """Return which ranks made a different call when the ranks' calls were compared."""
    checks: tuple[tuple[Kind, str], ...] = (
        ("op_mismatch", "op"),
        ("shape_mismatch", "shape"),
        ("dtype_mismatch", "dtype"),
    )
    for kind, name in checks:
        sides = _sides({rank: getattr(one, name) for rank, one in signatures.items()})
        if len(sides) > 1:
            said = {rank: f"{one.op}, {one.shape or 'no shape'}, {one.dtype}" for rank, one in signatures.items()}
            first = next(iter(signatures.values()))
            made = Collective(first.op, first.seq, False, (), (), first.dtype)
            return [_mismatch(kind, sides, said, made, None)], []
    return [], ["the logs say that the ranks' calls differ, and show no difference: all ranks' lines would show it"]


def _barrier(logs: LogFacts) -> Finding:
    ranks = tuple(sorted(logs.barrier))
    summary = f"{ranks_of(ranks)} never entered monitored_barrier, by the log of the rank that checked"
    waiting = tuple(sorted(logs.ranks - logs.barrier))
    evidence = ["the others' logs only report that it failed"] if len(waiting) > 1 else []
    made = Collective("monitored_barrier", None, False, (), (), "")
    return Finding("not_entered", "likely", summary, ranks, waiting, None, made, None, evidence)


def _of_group(logs: LogFacts, group: str, caught: Sequence[Caught]) -> list[Finding | str]:
    """Return what the timeouts of one group's members prove, and what they leave open, in words."""
    seq = min(one.seq for one in caught)
    there = [one for one in caught if one.seq == seq]
    beyond = sorted({one.rank for one in caught} - {one.rank for one in there})
    made = Collective(there[0].op, seq, there[0].op in ("send", "recv"), (), (), "")
    named = GroupName(group, "", tuple(sorted({one.rank for one in caught})), False)
    said = {one.rank: f"{one.op}, {one.sizes}" for one in there}
    waiting = sorted({one.rank for one in caught})
    where = f"{made.op} (sequence id {seq} of group {group or '?'})"
    sides = _sides({one.rank: one.op for one in there})
    if len(sides) > 1:
        return [_mismatch("op_mismatch", sides, said, made, named, beyond)]
    sides = _sides({one.rank: one.sizes for one in there})
    if len(sides) > 1 and _is_even(made.op):
        return [_mismatch("shape_mismatch", sides, said, made, named, beyond)]
    missing, reason = _missing(logs, group, seq, waiting) if not made.is_p2p else ([], "")
    if missing and not (beyond and reason == _SILENT):
        has = reason.replace("have", verb(missing, "has", "have"), 1)
        summary = f"{ranks_of(missing)} never entered {where}; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
        evidence = [f"the watchdogs of {ranks_of(waiting)} gave up on {made.op}, {there[0].sizes}"]
        evidence.append(f"{ranks_of(missing)} {has}")
        # Older versions of torch log no group, so a silent rank may not be a member.
        sure: Confidence = "likely" if group and len(missing) < len(waiting) else "possible"
        return [Finding("not_entered", sure, summary, tuple(missing), tuple(waiting), named, made, None, evidence)]
    if beyond:
        return [
            f"the watchdogs of {ranks_of([one.rank for one in there])} gave up on {where}, and those of"
            f" {ranks_of(beyond)} on a later one: dumps would show where they diverged"
        ]
    return [
        f"the {verb(waiting, 'watchdog', 'watchdogs')} of {ranks_of(waiting)} gave up on {where}, and no log says which"
        " member was not in it: the logs or dumps of the group's other members would, or the network is at fault"
    ]


def _missing(logs: LogFacts, group: str, seq: int, waiting: Sequence[int]) -> tuple[list[int], str]:
    """Return the ranks that, by the logs, were not in what others gave up on, and what shows it."""
    behind = {
        rank
        for (rank, name), (enqueued, _) in logs.status.items()
        if name == group and enqueued < seq and rank not in waiting
    }
    if behind:
        return sorted(behind), "have enqueued nothing that late"
    silent = logs.ranks - {one.rank for one in logs.caught.values()}
    most = len(waiting) if group in _DEFAULT else 0 if group else len(waiting) // 4
    return (sorted(silent), _SILENT) if len(silent) <= most else ([], "")


def _mismatch(
    kind: Kind,
    sides: Sequence[Sequence[int]],
    said: Mapping[int, str],
    made: Collective,
    group: GroupName | None,
    beyond: Sequence[int] = (),
) -> Finding:
    """Return the finding about ranks in different calls; it names the smaller sides if one side is larger."""
    everyone = sorted({*said, *beyond})
    tie = bool(beyond) or len(sides[0]) == len(sides[1])
    culprits = () if tie else tuple(sorted(rank for side in sides[1:] for rank in side))
    what = {"op_mismatch": "operations", "shape_mismatch": "sizes", "dtype_mismatch": "dtypes"}[kind]
    where = made.op if made.seq_id is None else f"{made.op} (sequence id {made.seq_id})"
    if kind == "op_mismatch" and made.seq_id is not None:
        where = f"sequence id {made.seq_id}"
    parts = joined(ranks_of(sorted(side)) for side in sides)
    summary = f"{parts} have different {what} in {where}"
    if culprits:
        summary = f"{ranks_of(culprits)} {verb(culprits, 'has', 'have')} different {what} from the others in {where}"
    evidence = [f"{ranks_of(sorted(side))}: {said[min(side)]}" for side in sides]
    if beyond:
        evidence.append(f"{ranks_of(beyond)} timed out in a later operation")
    waiting = tuple(rank for rank in everyone if rank not in culprits)
    return Finding(kind, "likely", summary, culprits, waiting, group, made, None, evidence)


def _is_even(op: str) -> bool:
    """Whether a collective requires the same sizes on all members."""
    return op in _EVEN or not any(word in op for word in _UNEVEN)


def _sides(values: Mapping[int, Hashable]) -> list[list[int]]:
    """Return the ranks by what they say, the largest side first."""
    sides: dict[Hashable, list[int]] = defaultdict(list)
    for rank, value in values.items():
        sides[value].append(rank)
    return sorted(sides.values(), key=lambda side: (-len(side), min(side)))
