"""Ranks that wait for each other: in several groups, in sends and receives, or out of step in one group."""

from __future__ import annotations

from itertools import pairwise

from torchctl.diagnosis.findings.court import Court, Unclear
from torchctl.diagnosis.findings.words import call_words, group_words, joined, ranks_of, verb
from torchctl.diagnosis.model import Collective, Finding, GroupName, Kind
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.waiting import Hidden, Node, Waits

_MOST_NAMED = 2  # a circle of up to this many ranks is named, although either may be wrong


def circle(court: Court, component: list[Node]) -> Finding | Unclear:
    """Return the finding for a component of the graph whose nodes wait for each other."""
    ranks = sorted(node.number for node in component if node.kind == "rank")
    hidden = [court.waits.hidden[node.number] for node in component if node.kind == "hidden"]
    if all(node.kind in ("rank", "hidden") for node in component):
        return _of_hidden(court, component, ranks, sorted(hidden, key=lambda one: one.ranks))
    nodes = [node for node in component if node.kind in ("op", "pair")]
    # Without a rank in the component, all have entered both operations, in different orders.
    wrong = _wrong_peer(court, ranks)  # before what is in every circle: one that it closes may leave it out
    ranks = in_every_circle(court.waits, component) or ranks or _out_of_order(court, nodes)
    ranks = wrong or _wrong_peer(court, ranks) or ranks
    waiting = court.waiting(component, ranks)
    collective, group = court.collective(min(nodes, key=court.entered_first)) if nodes else (None, None)
    groups = sorted({court.waits.group_of(node) for node in nodes})
    steps = []
    for node in sorted(nodes, key=court.entered_first):
        made, where = court.collective(node)
        rows = court.waits.rows_of(node).keys()
        inside = sorted(rows & set(ranks)) or sorted(rows)
        steps.append(f"{ranks_of(inside)} {verb(inside, 'waits', 'wait')} in {call_words(made, where)}")
    steps += [_step(one) for one in hidden]
    location = court.location(ranks, {r: row for node in nodes for r, row in court.waits.rows_of(node).items()})
    kind: Kind = "order_cycle"
    if all(node.kind == "pair" for node in nodes):
        kind = "p2p_mismatch"
    elif len(groups) == 1 and not hidden and not any(node.kind == "pair" for node in nodes):
        return _out_of_step(court, nodes, ranks, waiting, group, collective, steps)
    how = "wait for each other" if kind == "order_cycle" else "each wait for the other's end"
    where_words = joined(group_words(court.trace.groups[number]) for number in groups[:4])
    who = ranks_of(ranks) if len(ranks) > 1 else f"{ranks_of(ranks)} and others that it waits for"
    summary = f"{who} {how} in {where_words}, in a circle"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for them"
    if len(ranks) > _MOST_NAMED:
        summary += "; which of them is wrong cannot be determined"
        waiting, ranks, location = tuple(sorted({*waiting, *ranks})), [], None
    return Finding(kind, "likely", summary, tuple(ranks), waiting, group, collective, location, steps[:16])


def _of_hidden(court: Court, component: list[Node], ranks: list[int], hidden: list[Hidden]) -> Finding | Unclear:
    """Return the finding for ranks that wait for each other in calls that only stacks show."""
    steps = [_step(one) for one in hidden]
    if _meet(hidden):
        return Unclear(f"{joined(steps)}, which match each other and do not finish: it may be the network")
    waiting = court.waiting(component, ranks)
    summary = f"{ranks_of(ranks)} wait for each other: {joined(steps[:4])}{', ...' if len(steps) > 4 else ''}"
    if waiting:
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for them"
    kind: Kind = "p2p_mismatch" if all(one.is_p2p for one in hidden) else "order_cycle"
    location = court.location(ranks)
    if len(ranks) > _MOST_NAMED:
        summary += "; which of them is wrong cannot be determined"
        waiting, ranks, location = tuple(sorted({*waiting, *ranks})), [], None
    collective, group = court.collective(min((node for node in component if node.kind == "hidden"), key=_number))
    return Finding(kind, "likely", summary, tuple(ranks), waiting, group, collective, location, steps[:16])


def _number(node: Node) -> int:
    return node.number


def _step(one: Hidden) -> str:
    return f"{ranks_of(one.ranks)} {verb(one.ranks, 'is', 'are')} in {one.text or one.call}"


def _meet(hidden: list[Hidden]) -> bool:
    """Whether two ranks are in a send and its matching recv."""
    if len(hidden) != 2 or not all(one.is_p2p for one in hidden):
        return False
    first, second = hidden
    ends = [first.peer] == second.ranks and [second.peer] == first.ranks
    return ends and first.tag == second.tag and first.sends != second.sends


def _wrong_peer(court: Court, ranks: list[int]) -> list[int]:
    """Return the one rank of a circle that has an unmatched end open and that another unmatched end waits for.

    It sends to, or receives from, a different rank than the one that waits for it. Empty unless exactly one rank does.
    """
    alone = [pair for pair in court.waits.open.pairs if pair.alone and pair.counted]
    first: dict[int, int] = {}
    for pair in court.waits.open.pairs:
        first[pair.rank] = min(first.get(pair.rank, pair.row), pair.row)
    # A rank that runs ahead has later ends open as well, which others have not reached because of something else.
    oldest = [pair for pair in alone if _together(court, first[pair.rank], pair.row)]
    for ends in (oldest, alone):
        mine = {pair.rank: {one.partner for one in ends if one.rank == pair.rank} for pair in ends}
        found = [
            rank
            for rank in ranks
            if rank in mine and any(pair.partner == rank and pair.rank not in mine[rank] for pair in ends)
        ]
        if len(found) == 1:
            return found
    return []


def _together(court: Court, first: int, row: int) -> bool:
    """Whether a row is the same as another of its rank, or was launched in one batch with it."""
    trace = court.trace
    same = trace.group[row] == trace.group[first] and trace.seq[row] == trace.seq[first]
    return row == first or bool(same and trace.member[row] and trace.member[first])


def held_first(court: Court, component: list[Node]) -> list[list[Node]]:
    """Return what is left of a circle if each rank waits only in its oldest open operation.

    A rank whose launches run ahead also has later operations open, which others may not have reached because of it:
    that is not a circle. A circle that remains without the later operations is kept whole.
    """
    inside, graph = set(component), Graph[Node]()
    for node in component:
        graph.add(node)
        targets = [target for target in court.waits.graph.edges[node] if target in inside]
        if node.kind == "rank":
            targets = _oldest(court, node.number, targets)
        for target in targets:
            graph.wait(node, target)
    left = graph.roots()
    return left if any(len(part) == 1 for part in left) else [component]


def _oldest(court: Court, rank: int, nodes: list[Node]) -> list[Node]:
    """Return the nodes of the operation (or the batch) that a rank launched first, and all nodes without a row."""
    rows = {node: row for node in nodes if (row := court.waits.rows_of(node).get(rank)) is not None}
    if not rows:
        return nodes
    first = min(rows.values())
    return [node for node in nodes if node not in rows or _together(court, first, rows[node])]


def went_past(court: Court, component: list[Node]) -> tuple[Node, Node] | None:
    """Return the one rank that others wait for in a circle, and the operation that it skipped; None if unclear.

    The rank skipped an operation and went on to others, which all have entered and which wait behind the skipped one.
    That takes a majority inside the skipped one: of two ranks, either may have launched a call that it should not have.

    """
    ranks = [node for node in component if node.kind == "rank"]
    if len(ranks) != 1:
        return None
    orders = [court.waits.order.get((node, target)) for node in component for target in court.waits.graph.edges[node]]
    if any(order is not None and len(order) == 1 for order in orders):
        return None  # that one rank's order may be the wrong one
    left_out = [node for node in court.waits.graph.back[ranks[0]] if node in component]
    first = min(left_out, key=court.entered_first)
    if first.kind != "op" or len(court.waits.rows_of(first)) < 2:
        return None
    return ranks[0], first


def in_every_circle(waits: Waits, component: list[Node]) -> list[int]:
    """Return the ranks that are part of every circle in a component of the graph."""
    inside = set(component)
    path: dict[Node, None] = {}
    node = component[0]
    while node not in path:
        path[node] = None
        node = next(target for target in waits.graph.edges[node] if target in inside)
    steps = list(path)
    steps = [*steps[steps.index(node) :], node]
    able = {one.number for one in steps if one.kind == "rank"}
    for step in pairwise(steps):
        able |= waits.order.get(step, set())
    return sorted(rank for rank in able if not _in_circles_without(waits, inside, rank))


def _in_circles_without(waits: Waits, inside: set[Node], rank: int) -> bool:
    rest: Graph[Node] = Graph()
    for node in inside - {Node("rank", rank)}:
        for target in waits.graph.edges[node]:
            if target in inside and target != Node("rank", rank) and waits.order.get((node, target)) != {rank}:
                rest.wait(node, target)
    return any(len(component) > 1 for component in rest.components())


def _out_of_order(court: Court, nodes: list[Node]) -> list[int]:
    """Return the ranks that launched two of these operations in a different order than others."""
    found: set[int] = set()
    for at, one in enumerate(nodes):
        for other in nodes[at + 1 :]:
            mine, theirs = court.waits.rows_of(one), court.waits.rows_of(other)
            common = mine.keys() & theirs.keys()
            before = {rank for rank in common if mine[rank] < theirs[rank]}
            if before and before != common:
                # The smaller side is out of order; if both are equal, either may be.
                sides = sorted((before, common - before), key=len)
                found |= sides[0] if len(sides[0]) < len(sides[1]) else common
    return sorted(found or {rank for node in nodes for rank in court.waits.rows_of(node)})


def _out_of_step(
    court: Court,
    nodes: list[Node],
    ranks: list[int],
    waiting: tuple[int, ...],
    group: GroupName | None,
    collective: Collective | None,
    steps: list[str],
) -> Finding:
    """Return the finding about ranks that are in different operations of one group: one went past the others."""
    by_size = sorted(nodes, key=lambda node: len(court.waits.rows_of(node)))
    few = sorted(court.waits.rows_of(by_size[0]))
    tie = len(nodes) > 1 and len(few) == len(court.waits.rows_of(by_size[1]))
    culprits = () if tie else tuple(few)
    everybody = tuple(sorted({*ranks, *waiting} - set(culprits)))
    summary = f"{ranks_of(ranks)} are in different operations of {group_words(group)}"
    summary += (
        ", a tie: it cannot be determined which side is wrong"
        if tie
        else f"; {ranks_of(few)} {verb(few, 'differs', 'differ')} from the majority"
    )
    location = court.location(culprits)
    return Finding("op_mismatch", "likely", summary, culprits, everybody, group, collective, location, steps)
