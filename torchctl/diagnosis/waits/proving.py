"""Determine what the evidence from a job proves: whose dump is older than others', or has no entries.

A dump is older if it lacks what others have done with its rank. No rank finishes an all_reduce before every member has
entered it: if one rank has finished an operation that another rank's dump does not show, that dump was taken earlier,
while the job was moving. So was a dump that does not show a send which has been received.
"""

from __future__ import annotations

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.ages import Ages
from torchctl.diagnosis.waits.doing import activities_of
from torchctl.diagnosis.waits.entered import Windows
from torchctl.diagnosis.waits.failed import failed_operations
from torchctl.diagnosis.waits.pairs import outrun_senders
from torchctl.diagnosis.waits.proofs import Proofs
from torchctl.flightrec.table.trace import State, Trace


def proofs_of(evidence: Evidence) -> Proofs:
    """Return what the evidence proves."""
    trace = evidence.trace
    windows = Windows(trace)
    without = _without_rows(trace)
    empty = without & _met(trace, windows) if without else without
    ages = Ages(trace, collected=evidence.live)
    failed = failed_operations(trace, windows.of, ages.taken, evidence.moved)
    absent = frozenset(rank for op in failed for rank in op.missing)
    stale = frozenset(_stale(trace, windows) if evidence.moved is None else ()) - without - absent
    return Proofs(
        evidence=evidence,
        activity=activities_of(evidence.stacks),
        from_outside=activities_of(
            {rank: one.stacks for rank, one in evidence.degraded.items() if one.stacks is not None}
        ),
        moved=evidence.moved or frozenset(),
        windows=windows,
        stale=stale,
        empty=empty,
        wrapped=frozenset(dump.rank for dump in trace.dumps if dump.wrapped),
        usable=frozenset(trace.ranks) - stale - empty,
        ages=ages,
        failed=failed,
        _in_something=frozenset(trace.rank[trace.state <= State.LATE].tolist()),
    )


def _stale(trace: Trace, windows: Windows) -> set[int]:
    """Return the ranks whose dump is older than what others have finished with them."""
    stale = outrun_senders(trace)
    seen = set(trace.ranks)
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    for number, seq in windows.proven_entered().items():
        group = trace.groups[number]
        for rank in group.members:
            window = windows.of(number, rank)
            silent = window is None and rank in seen and rank not in wrapped and windows.shows(number, rank)
            never = silent and group.known
            behind = never or (window is not None and window[1] < seq)
            if behind:
                stale.add(rank)
    return stale


def _without_rows(trace: Trace) -> frozenset[int]:
    """Return the ranks whose dumps have no rows, if others' dumps do."""
    rows: dict[int, int] = {}
    for dump in trace.dumps:
        rows[dump.rank] = rows.get(dump.rank, 0) + dump.rows
    return frozenset(rank for rank, count in rows.items() if not count and len(trace))


def _met(trace: Trace, windows: Windows) -> set[int]:
    """Return the members of groups in which a rank has finished an operation."""
    return {rank for number in windows.proven_entered() for rank in trace.groups[number].members}
