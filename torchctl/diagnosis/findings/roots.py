"""Ranks that are in one broadcast, scatter, gather or reduce with different roots, so that it cannot finish for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torchctl.diagnosis.findings.court import Court
from torchctl.diagnosis.findings.words import call_words, joined, ranks_of, verb
from torchctl.diagnosis.model import Finding
from torchctl.diagnosis.waits.waiting import Node


def roots_differ(court: Court, node: Node, ranks: Sequence[int]) -> Finding | None:
    """Return the finding about ranks that are in the same call of one group with different roots; None if none are.

    Args:
        node: the operation that others wait in, or that these ranks are in.
    """
    sides: dict[int, list[int]] = defaultdict(list)
    calls = set()
    members: set[int] = set()
    for rank in ranks:
        activity = court.proofs.activity.get(rank)
        calling = None if activity is None else activity.calling
        if calling is None or calling.root is None or calling.members is None:
            continue
        calls.add((calling.call, calling.group))
        members.update(calling.members)
        sides[calling.root].append(rank)
    if len(sides) < 2 or len(calls) > 1:
        return None
    call, _ = calls.pop()
    ordered = sorted(sides.items(), key=lambda side: (-len(side[1]), side[0]))
    shown = {rank for _, side in ordered for rank in side}
    known = court.waits.open
    if not any(shown <= op.rows.keys() for op in (*known.ops, *known.passing, *known.in_flight)):
        return None  # in different calls of the same function
    few = sorted(rank for _, side in ordered[1:] for rank in side)
    decided = len(ordered[0][1]) > len(ordered[1][1]) + len(members - shown)
    culprits = tuple(few) if decided else ()
    said = [f"{ranks_of(side)} {verb(side, 'uses', 'use')} rank {root} as the root" for root, side in ordered]
    collective, group = court.collective(node)
    waiting = tuple(sorted({*court.waiting([node], culprits), *shown} - set(culprits)))
    summary = f"different roots in {call}: {joined(said[:4])}"
    if node.kind == "op" and collective is not None and collective.op != call:
        said.append(f"others wait for them in {call_words(collective, group)}")
    return Finding(
        "op_mismatch", "likely", summary, culprits, waiting, group, collective, court.location(culprits), said[:8]
    )
