"""Ranks that wait for each other: in several groups, in sends and receives, or out of step in one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchctl.diagnosis.model import Collective, Finding, GroupName, Kind
from torchctl.diagnosis.waiting import Node
from torchctl.diagnosis.words import call_words, group_words, joined, ranks_of, verb

if TYPE_CHECKING:
    from torchctl.diagnosis.accuse import Accuser


def circle(accuser: Accuser, component: list[Node]) -> Finding:
    """Return the finding for a component of the graph whose nodes wait for each other."""
    ranks = sorted(node.number for node in component if node.kind == "rank")
    nodes = [node for node in component if node.kind in ("op", "pair")]
    if not ranks:  # all have entered both, in different orders
        ranks = _out_of_order(accuser, nodes)
    waiting = accuser.waiting(component, ranks)
    collective, group = accuser.collective(min(nodes, key=accuser.entered_first)) if nodes else (None, None)
    groups = sorted({accuser.waits.group_of(node) for node in nodes})
    steps = []
    for node in sorted(nodes, key=accuser.entered_first):
        made, where = accuser.collective(node)
        inside = sorted(accuser.waits.rows_of(node).keys() & set(ranks))
        steps.append(f"{ranks_of(inside)} {verb(inside, 'waits', 'wait')} in {call_words(made, where)}")
    location = accuser.location(ranks, {r: row for node in nodes for r, row in accuser.waits.rows_of(node).items()})
    kind: Kind = "order_cycle"
    if all(node.kind == "pair" for node in nodes):
        kind = "p2p_mismatch"
    elif len(groups) == 1 and not any(node.kind == "pair" for node in nodes):
        return _out_of_step(accuser, nodes, ranks, waiting, group, collective, steps)
    how = "wait for each other" if kind == "order_cycle" else "each wait for the other's end"
    where_words = joined(group_words(accuser.trace.groups[number]) for number in groups[:4])
    summary = f"{ranks_of(ranks)} {how} in {where_words}, in a circle"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for them"
    return Finding(kind, "likely", summary, tuple(ranks), waiting, group, collective, location, steps[:16])


def _out_of_order(accuser: Accuser, nodes: list[Node]) -> list[int]:
    """Return the ranks that have launched two of these operations in an order that others contradict."""
    found: set[int] = set()
    for at, one in enumerate(nodes):
        for other in nodes[at + 1 :]:
            mine, theirs = accuser.waits.rows_of(one), accuser.waits.rows_of(other)
            common = mine.keys() & theirs.keys()
            before = {rank for rank in common if mine[rank] < theirs[rank]}
            if before and before != common:
                # The smaller side goes against the rest; of two equal ones neither does.
                sides = sorted((before, common - before), key=len)
                found |= sides[0] if len(sides[0]) < len(sides[1]) else common
    return sorted(found or {rank for node in nodes for rank in accuser.waits.rows_of(node)})


def _out_of_step(
    accuser: Accuser,
    nodes: list[Node],
    ranks: list[int],
    waiting: tuple[int, ...],
    group: GroupName | None,
    collective: Collective | None,
    steps: list[str],
) -> Finding:
    """Ranks of one group that are in different operations of it: one went past what the others are in."""
    by_size = sorted(nodes, key=lambda node: len(accuser.waits.rows_of(node)))
    few = sorted(accuser.waits.rows_of(by_size[0]))
    tie = len(nodes) > 1 and len(few) == len(accuser.waits.rows_of(by_size[1]))
    culprits = () if tie else tuple(few)
    everybody = tuple(sorted({*ranks, *waiting} - set(culprits)))
    summary = f"{ranks_of(ranks)} are in different operations of {group_words(group)}"
    summary += ", a tie: which side is wrong is not to be told" if tie else f"; {ranks_of(few)} differ from most"
    location = accuser.location(culprits)
    return Finding("op_mismatch", "likely", summary, culprits, everybody, group, collective, location, steps)
