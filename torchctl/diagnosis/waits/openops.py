"""The open operations of a job, sorted into those that count and those that prove nothing.

How this works. In one look a moving job and a stuck one look the same, so an open operation counts only if something is
wrong with it: a member that has not entered it, a member without a dump, launches in different orders, or proof that
it does not finish (a watchdog gave up on it, it is old by the job's own times, two looks show it unchanged). What
others have already finished is about to finish here, too, and what all have entered may just be running.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.ages import LONG_NS
from torchctl.diagnosis.waits.entered import find_open
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.mismatch import find_mismatches
from torchctl.diagnosis.waits.pairs import ends_differ, find_open_pairs
from torchctl.diagnosis.waits.proofs import Proofs
from torchctl.diagnosis.waits.waiting import OpenOp, OpenOperations, OpenPair
from torchctl.flightrec.table.trace import State


def open_operations(proofs: Proofs) -> OpenOperations:
    """Return the open operations, sorted into those that count and those that prove nothing."""
    mismatches = find_mismatches(proofs.trace, proofs.windows)
    disagreed = {(one.group, one.seq) for one in mismatches}
    ops: list[OpenOp] = list(proofs.failed)
    passing: list[OpenOp] = []
    in_flight: list[OpenOp] = []
    young: list[OpenOp] = []
    for op in find_open(proofs.trace, proofs.windows, proofs.usable, proofs.moved):
        if (op.group, op.seq) in disagreed:
            ops.append(op)
        elif _finished(proofs, op):
            (ops if _lags(proofs, op) else passing).append(op)
        elif op.missing or op.skipped or op.unknown:
            if _absence_counts(proofs, op):
                (young if proofs.young(list(op.rows.values())) else ops).append(op)
        elif op.done:
            (ops if _lags(proofs, op) else passing).append(op)
        elif _is_stuck(proofs, op) or (not proofs.trace.groups[op.group].known and proofs.unseen(op.group)):
            ops.append(op)
        else:
            in_flight.append(op)
    circles = _in_circles(proofs, in_flight)
    ops += [op for number, op in enumerate(in_flight) if number in circles]
    in_flight = [op for number, op in enumerate(in_flight) if number not in circles]
    pairs = _pairs_that_count(proofs)
    held = _held(proofs, ops, in_flight)
    ops += held
    in_flight = [op for op in in_flight if op not in held]
    holding = _holding(proofs, ops, pairs, [*in_flight, *passing])
    return OpenOperations(ops + holding, pairs, passing, in_flight, holding, mismatches, young)


def _finished(proofs: Proofs, op: OpenOp) -> bool:
    """Whether a rank has finished an operation that none can finish alone, so that all have been in it."""
    if not op.done or proofs.is_gloo(op.group):
        return False  # gloo also retires operations that failed
    trace, rows = proofs.trace, list(op.rows.values())
    operations = set(trace.operation[rows].tolist())
    return not proofs.given_up(rows) and all(trace.operations[number].symmetric for number in operations)


def _lags(proofs: Proofs, op: OpenOp) -> bool:
    """Whether an operation that some have finished is stuck on the others, not just not marked as done yet."""
    if proofs.is_gloo(op.group) or op.missing or op.skipped or op.unknown or proofs.stale:
        return False
    trace = proofs.trace
    later = (trace.group == op.group) & (trace.seq > op.seq) & (trace.state == State.DONE) & ~trace.p2p
    if set(op.rows) & set(trace.rank[later].tolist()):
        return False  # a device finishes operations in order
    return _is_stuck(proofs, op)


def _held(proofs: Proofs, ops: Sequence[OpenOp], in_flight: Sequence[OpenOp]) -> list[OpenOp]:
    """Return the operations in flight that a member launched behind one that counts: its device cannot reach them."""
    first: dict[int, int] = {}
    found: list[OpenOp] = []
    taken, left = list(ops), [op for op in in_flight if not proofs.is_gloo(op.group)]
    while taken:
        for op in taken:
            for rank, row in op.rows.items():
                first[rank] = min(first.get(rank, row), row)
        taken = [op for op in left if any(_behind(proofs, first.get(rank), row) for rank, row in op.rows.items())]
        left = [op for op in left if op not in taken]
        found += taken
    return found


def _behind(proofs: Proofs, first: int | None, row: int) -> bool:
    return first is not None and first < row and bool(proofs.trace.dump[first] == proofs.trace.dump[row])


def _absence_counts(proofs: Proofs, op: OpenOp) -> bool:
    """Whether members that do not show an operation are really absent, and not just dumped earlier."""
    if not proofs.stale or proofs.hard(list(op.rows.values())):
        return True
    return not (op.missing or op.skipped) and proofs.stale.isdisjoint(op.unknown)


def _is_stuck(proofs: Proofs, op: OpenOp) -> bool:
    """Whether an operation that all have entered is known to be stuck rather than in flight."""
    rows = list(op.rows.values())
    hard = proofs.hard(rows)
    if proofs.is_gloo(op.group):
        # Gloo marks operations done with a delay; a thread inside one is proof.
        inside = any(proofs.doing(rank) is Doing.COLLECTIVE for rank in op.rows)
        return inside and (proofs.compared or hard)
    if proofs.given_up(rows) or proofs.ages.long_for_all(rows):
        return True
    if proofs.compared:
        # Who has moved may have finished it since the others were looked at.
        return proofs.moved.isdisjoint({*op.rows, *op.done})
    standing_ns = proofs.ages.standing_ns(rows)
    if standing_ns is not None:
        return standing_ns > LONG_NS
    if proofs.ages.lively or proofs.ages.lost:
        return False
    return int(State.STARTED) in proofs.trace.state[rows].tolist() and not proofs.stale


def _in_circles(proofs: Proofs, ops: Sequence[OpenOp]) -> set[int]:
    """Return which of these operations, entered by all, were launched in different orders and so may never finish."""
    launched: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for number, op in enumerate(ops):
        if not proofs.is_gloo(op.group):  # gloo has separate threads for each group
            for rank, row in op.rows.items():
                launched[rank, int(proofs.trace.dump[row])].append((row, number))
    order: Graph[int] = Graph()
    for rows in launched.values():
        rows.sort()
        for (_, earlier), (_, later) in pairwise(rows):
            order.wait(later, earlier)
    return {number for component in order.components() if len(component) > 1 for number in component}


def _pairs_that_count(proofs: Proofs) -> list[OpenPair]:
    trace = proofs.trace
    found = []
    for pair in find_open_pairs(trace, proofs.usable, proofs.moved):
        done = pair.other is not None and trace.state[pair.other] == State.DONE
        differ = ends_differ(trace, pair)
        if (not done or differ) and (not proofs.stale or proofs.hard([pair.row])) and not proofs.young([pair.row]):
            found.append(pair)
    return found


def _holding(
    proofs: Proofs, ops: Sequence[OpenOp], pairs: Sequence[OpenPair], in_flight: Sequence[OpenOp]
) -> list[OpenOp]:
    """Return the operations in flight that hold a rank which others wait for: it cannot come before they finish."""
    awaited = {rank for op in ops for rank in (*op.missing, *op.skipped)}
    awaited |= {pair.partner for pair in pairs if pair.alone}
    found: list[OpenOp] = []
    left = [op for op in in_flight if not proofs.is_gloo(op.group)]
    while taken := [op for op in left if awaited & op.rows.keys()]:
        found += taken
        left = [op for op in left if not awaited & op.rows.keys()]
        awaited = {rank for op in taken for rank in op.rows}  # these may be held in another one
    return found
