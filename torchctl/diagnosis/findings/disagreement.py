"""Ranks that disagree about one collective: the finding for a mismatch."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.certainty import of_disagreement
from torchctl.diagnosis.findings.court import Court
from torchctl.diagnosis.findings.words import call_words, ranks_of, verb
from torchctl.diagnosis.model import Finding, Location
from torchctl.diagnosis.waits.waiting import Mismatch, Node

_WORDS = {
    "op_mismatch": "a different operation",
    "shape_mismatch": "different sizes",
    "dtype_mismatch": "a different type",
}


def disagreement(court: Court, node: Node, mismatch: Mismatch) -> Finding:
    """Return the finding about a collective on which ranks disagree; `node` is its node in the graph."""
    majority = mismatch.rows[mismatch.sides[0][0]]
    collective, group = court.collective_of_row(majority, list(mismatch.rows.values()))
    evidence = _said(court, mismatch)
    evidence += _lines(court, mismatch)
    is_open = node in court.waits.graph.edges
    waiting = court.waiting([node], mismatch.minority) if is_open else ()
    if mismatch.minority:
        few = mismatch.minority
        summary = f"{ranks_of(few)} {verb(few, 'has', 'have')} {_WORDS[mismatch.what]} from the others in"
    elif mismatch.totals is not None:
        sent, expected = mismatch.totals
        summary = (
            f"the ranks send {sent} elements in all and expect {expected}; it cannot be determined which is wrong, in"
        )
    elif len(mismatch.sides) == 1:
        summary = "the sizes contradict each other on every rank that shows them, in"
    else:
        sides = " against ".join(ranks_of(side) for side in mismatch.sides[:4])
        lead = "a tie, " if not mismatch.unseen else ""
        summary = f"{lead}{sides}: they disagree ({_WORDS[mismatch.what]}) in"
        if mismatch.unseen:
            evidence.append(
                f"{ranks_of(mismatch.unseen)} no longer {verb(mismatch.unseen, 'shows', 'show')} this operation"
                ", so it cannot be determined which side differs from the majority"
            )
    summary += f" {call_words(collective, group)}"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
    location = None
    if mismatch.minority:
        rows = {rank: mismatch.rows[rank] for rank in mismatch.minority}
        frame = court.frame(rows[mismatch.minority[0]])
        if frame is not None:
            location = Location(mismatch.minority[0], frame.filename, frame.line, frame.name)
    confidence = of_disagreement(majority=bool(mismatch.minority) and not mismatch.parts)
    return Finding(
        mismatch.what, confidence, summary, mismatch.minority, waiting, group, collective, location, evidence
    )


def _said(court: Court, mismatch: Mismatch) -> list[str]:
    """Return what each side recorded."""
    if mismatch.parts:
        return [
            f"rank {one.sender} sends rank {one.receiver} {one.sent} elements, and rank {one.receiver} expects"
            f" {one.expected}"
            for one in mismatch.parts[:8]
        ]
    shown = mismatch.sides if mismatch.totals is None else [(rank,) for rank in mismatch.sides[0]]
    evidence = []
    for side in shown[:8]:
        call = court.trace.call_of(mismatch.rows[side[0]])
        sizes = f", {_listed(call.input_sizes)} -> {_listed(call.output_sizes)}"
        moved = sizes if call.input_sizes or call.output_sizes else ""
        evidence.append(f"{ranks_of(side)}: {call.name}{moved}{f', {call.dtype}' if call.dtype else ''}")
    return evidence


def _listed(sizes: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(one) for one in sizes]


def _lines(court: Court, mismatch: Mismatch) -> list[str]:
    """Return where each side calls it, if the lines differ."""
    places = []
    for side in mismatch.sides[:8]:
        frame = court.frame(mismatch.rows[side[0]])
        if frame is not None:
            places.append((side, f"{frame.filename}:{frame.line} ({frame.name})"))
    if len({place for _, place in places}) < 2:
        return []
    return [f"{ranks_of(side)} {verb(side, 'calls', 'call')} it at {place}" for side, place in places]
