"""Devices that are behind: all ranks have entered an operation, and some have finished or started it, others not.

Threads launch and go on; the device reaches a launch when the earlier work on its streams has finished. So if the
threads of all ranks have launched an operation, a rank that differs from the others differs by its device.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.court import Court
from torchctl.diagnosis.findings.words import call_words, ranks_of, verb
from torchctl.diagnosis.model import Collective, Finding, GroupName
from torchctl.diagnosis.waits.waiting import Node, OpenOp
from torchctl.flightrec.table.trace import NO_TIME, State


def behind(court: Court, node: Node) -> Finding | None:
    """Return the finding about devices that keep an operation from finishing; None if all ranks are alike."""
    op = court.waits.open.ops[node.number]
    if court.proofs.is_gloo(op.group) or op.missing or op.skipped:
        return None
    return _still_inside(court, node, op) if op.done else _not_begun(court, node, op)


def _still_inside(court: Court, node: Node, op: OpenOp) -> Finding:
    """Return the finding about ranks that are in an operation which other ranks have finished."""
    inside, done = sorted(op.rows), sorted(op.done)
    culprits = inside if len(inside) == 1 and len(done) > 1 else []
    collective, group = court.collective(node)
    summary = (
        f"{ranks_of(inside)} {verb(inside, 'is', 'are')} still in {call_words(collective, group)}, which"
        f" {ranks_of(done)} {verb(done, 'has', 'have')} finished: look at"
        f" {verb(inside, 'its device', 'their devices')}, the network and the communication library, not at code"
    )
    evidence = [f"all {len(inside) + len(done)} members have entered it", *_counters(court, op, [*inside, *done])]
    return _finding(court, node, op, culprits, summary, evidence, (collective, group))


def _not_begun(court: Court, node: Node, op: OpenOp) -> Finding | None:
    """Return the finding about ranks whose devices have not started what others' have; None if all have."""
    trace = court.trace
    begun = sorted(rank for rank, row in op.rows.items() if trace.state[row] == State.STARTED)
    late = [rank for rank, row in op.rows.items() if trace.state[row] == State.SCHEDULED and _tells_starts(court, row)]
    late = sorted(rank for rank in late if not _held_before(court, op.rows[rank]))
    if not late or len(late) >= len(begun):
        return None
    collective, group = court.collective(node)
    summary = (
        f"the {verb(late, 'device', 'devices')} of {ranks_of(late)} {verb(late, 'has', 'have')} not reached"
        f" {call_words(collective, group)}, which has started on {ranks_of(begun)}: earlier work on"
        f" {verb(late, 'that device', 'those devices')} does not finish, or {verb(late, 'it hangs', 'they hang')}"
    )
    evidence = [
        f"all {len(op.rows)} members have entered it",
        f"{ranks_of(begun)}: started; {ranks_of(late)}: scheduled, although the recorder of"
        f" {verb(late, 'that rank', 'those ranks')} records starts",
        *_counters(court, op, [*late, *begun]),
    ]
    return _finding(court, node, op, late, summary, evidence, (collective, group))


def _finding(
    court: Court,
    node: Node,
    op: OpenOp,
    culprits: Sequence[int],
    summary: str,
    evidence: list[str],
    what: tuple[Collective | None, GroupName | None],
) -> Finding:
    confidence = court.surely_stuck(list(op.rows.values()))
    location = court.location(culprits)  # where the operation was launched is not where the device is
    waiting = court.waiting([node], culprits)
    return Finding("stuck_running", confidence, summary, tuple(culprits), waiting, what[1], what[0], location, evidence)


def _tells_starts(court: Court, row: int) -> bool:
    """Whether the recorder of a row's rank records when operations start (TORCH_NCCL_ENABLE_TIMING)."""
    dump = court.trace.dumps[int(court.trace.dump[row])]
    return bool((court.trace.started_ns[dump.first_row : dump.first_row + dump.rows] != NO_TIME).any())


def _held_before(court: Court, row: int) -> bool:
    """Whether the rank has an earlier operation open, in which its device may be waiting."""
    dump = court.trace.dumps[int(court.trace.dump[row])]
    return bool((court.trace.state[dump.first_row : row] <= State.LATE).any())


def _counters(court: Court, op: OpenOp, ranks: Sequence[int]) -> list[str]:
    """Return what the processes' own counters say about the group, equal ones together."""
    alike: dict[str, list[int]] = {}
    for rank in ranks:
        status = court.trace.status_of(rank, op.group)
        if status is not None:
            words = f"last enqueued {status.last_enqueued}, completed {status.last_completed}"
            if status.last_started is not None and status.last_started >= 0:
                words = f"last enqueued {status.last_enqueued}, started {status.last_started}, completed"
                words += f" {status.last_completed}"
            alike.setdefault(words, []).append(rank)
    return [f"{ranks_of(sorted(same))}: by its own counters {words}" for words, same in list(alike.items())[:4]]
