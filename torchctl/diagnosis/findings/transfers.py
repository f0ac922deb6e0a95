"""A send and its recv that are both recorded and do not finish: their sizes differ, or something between them fails."""

from __future__ import annotations

from torchctl.diagnosis.findings.court import Court, Unclear
from torchctl.diagnosis.findings.words import call_words, group_words
from torchctl.diagnosis.model import Finding
from torchctl.diagnosis.waits.ages import LONG_NS
from torchctl.diagnosis.waits.pairs import element_bytes, elements, ends_differ
from torchctl.diagnosis.waits.waiting import Node
from torchctl.flightrec.table.trace import State


def both_in(court: Court, node: Node) -> Finding | Unclear | None:
    """Return the finding about two ends that wait for nothing else; None if the other end's node reports it."""
    pair = court.waits.open.pairs[node.number]
    if pair.other is None:
        return Unclear("a send and its recv are both recorded and not done; they may be in flight")
    if not pair.is_send and court.trace.state[pair.other] != State.DONE:
        return None  # the send's own node
    rows = [pair.row, pair.other]
    collective, group = court.collective_of_row(pair.row, rows)
    ranks = tuple(sorted({pair.rank, pair.partner}))
    waiting = tuple(sorted({*court.waiting([node], ()), *ranks}))
    if ends_differ(court.trace, pair):
        mine, theirs = (_amount(court, row) for row in rows)
        verb, other = ("sends", "expects") if pair.is_send else ("expects", "sends")
        summary = (
            f"a tie: rank {pair.rank} {verb} {mine} and rank {pair.partner} {other} {theirs} in"
            f" {call_words(collective, group)}; it cannot be determined which is wrong"
        )
        evidence = [
            f"rank {rank}: {_line(court, row)}" for rank, row in zip((pair.rank, pair.partner), rows, strict=True)
        ]
        return Finding("shape_mismatch", "likely", summary, (), waiting, group, collective, None, evidence)
    if not _stands(court, rows):
        return Unclear("a send and its recv are both recorded and not done; they may be in flight")
    summary = (
        f"{call_words(collective, group)} and its other end on rank {pair.partner} are both entered and do not finish:"
        " look at the network, the devices and the communication library, not at a rank's code"
    )
    evidence = [f"both ends are recorded in {group_words(group)}, of the same size, and neither has finished"]
    confidence = court.surely_stuck(rows)
    return Finding("stuck_running", confidence, summary, (), waiting, group, collective, None, evidence)


def _stands(court: Court, rows: list[int]) -> bool:
    """Whether both ends are known to be stuck rather than in flight."""
    proofs = court.proofs
    if proofs.compared or proofs.given_up(rows) or proofs.ages.long_for_all(rows) or proofs.ages.timed_out(rows):
        return True
    standing_ns = proofs.ages.standing_ns(rows)
    return standing_ns is not None and standing_ns > LONG_NS


def _line(court: Court, row: int) -> str:
    frame = court.frame(row)
    at = f" at {frame.filename}:{frame.line} ({frame.name})" if frame is not None else ""
    return f"{court.trace.call_of(row).name} of {_amount(court, row)}{at}"


def _amount(court: Court, row: int) -> str:
    """Return "1024 elements of Float"."""
    call, count = court.trace.call_of(row), elements(court.trace, row)
    return f"{count} elements of {call.dtype}" if element_bytes(court.trace, row) is not None else f"{count} elements"
