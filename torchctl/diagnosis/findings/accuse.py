"""Turn the roots of the wait-for graph into findings: sort them into cases, and merge similar ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchctl.diagnosis.findings.absent import absent, work_of
from torchctl.diagnosis.findings.circles import circle, held_first, went_past
from torchctl.diagnosis.findings.computing import at_work, may_end
from torchctl.diagnosis.findings.court import Court, Unclear
from torchctl.diagnosis.findings.devices import behind
from torchctl.diagnosis.findings.disagreement import disagreement
from torchctl.diagnosis.findings.folding import MAX_ALIKE, fold
from torchctl.diagnosis.findings.lost import lost
from torchctl.diagnosis.findings.roots import roots_differ
from torchctl.diagnosis.findings.stuck import nobody_left, stuck
from torchctl.diagnosis.findings.transfers import both_in
from torchctl.diagnosis.findings.words import ranks_of
from torchctl.diagnosis.model import Finding
from torchctl.diagnosis.waits.waiting import Mismatch, Node


def accuse(court: Court) -> tuple[list[Finding], list[str]]:
    """Return the findings about all roots, and what is not clear, in words."""
    cases, unclear = _Cases(court).of_all_roots()
    found: list[Finding] = []
    for alike in cases.values():
        for answer in _many(court, alike) if len(alike) > MAX_ALIKE else [case.answer(court) for case in alike]:
            if isinstance(answer, Unclear):
                unclear.append(answer.why)
            else:
                found.append(answer)
    return found, list(dict.fromkeys(unclear))


Answer = Callable[[Court], Finding | Unclear]


@dataclass(frozen=True, slots=True)
class Case:
    """The roots that one finding is about, and the function that returns it."""

    roots: Sequence[Node]
    answer: Answer


def _many(court: Court, cases: Sequence[Case]) -> list[Finding | Unclear]:
    """Return the answers to many cases, similar ones merged; search for who waits once, not once per case."""
    quick = court.without_search()
    found: list[Finding | Unclear] = []
    alike: dict[tuple[str, str, bool], list[tuple[Case, Finding]]] = defaultdict(list)
    for case in cases:
        answer = case.answer(quick)
        if isinstance(answer, Unclear):
            found.append(answer)
        else:
            alike[answer.kind, answer.confidence, bool(answer.culprit_ranks)].append((case, answer))
    for same in alike.values():
        if len(same) <= MAX_ALIKE:
            found += [case.answer(court) for case, _ in same]
        else:
            roots = [root for case, _ in same for root in case.roots]
            found.append(fold([finding for _, finding in same], court.waiting(roots, ())))
    return found


class _Cases:
    """Sorts the roots of one graph into cases.

    Attributes:
        waited_in: nodes of operations in which a rank waits.
        unclear: why nothing can be said about some roots, in words.
    """

    def __init__(self, court: Court) -> None:
        self.court, self.waits = court, court.waits
        self.waited_in = {node for nodes in self.waits.blocked.values() for node in nodes}
        self.cases: dict[tuple[str, ...], list[Case]] = defaultdict(list)
        self.awaited: dict[tuple[str, Node], list[Node]] = defaultdict(list)
        self.unclear: list[str] = []

    def of_all_roots(self) -> tuple[dict[tuple[str, ...], list[Case]], list[str]]:
        """Return the cases by kind and operation, so that similar ones can be merged, and what is not clear."""
        for component in self.waits.graph.roots():
            undecided = [node for node in component if self.court.undecided(node)]
            if undecided:
                self._undecided(undecided)
                continue
            for part in held_first(self.court, component) if len(component) > 1 else [component]:
                if len(part) > 1:
                    self._add_circle(part)
                else:
                    self._add(part[0])
        self._leave_out_hidden()
        for (kind, operation), nodes in self.awaited.items():
            ranks = sorted(node.number for node in nodes)
            self._case((kind, operation.kind, self._call(operation)), nodes, _absence(kind, operation, ranks))
        for number, mismatch in enumerate(self.waits.open.mismatches):
            node = Node("mismatch", number)
            self._case(("mismatch", mismatch.what), [node], _disagreement(node, mismatch))
        return self.cases, self.unclear

    def _case(self, key: tuple[str, ...], roots: Sequence[Node], answer: Answer) -> None:
        self.cases[key].append(Case(roots, answer))

    def _add_circle(self, component: list[Node]) -> None:
        alone = went_past(self.court, component)
        if alone is not None:
            self.awaited["rank", alone[1]].append(alone[0])
        else:
            self._case(("circle", ""), component, lambda court: circle(court, component))

    def _add(self, node: Node) -> None:
        """Add the case for one node that waits for nothing."""
        if node.kind in ("rank", "lost"):
            operation = self._first_waiting(node)
            if operation is not None and self.court.undecided(operation):
                self._undecided([operation])
            elif operation is not None:
                self.awaited[node.kind, operation].append(node)
        elif node.kind == "op" and self.waits.open.ops[node.number] not in self.waits.open.holding:
            self._case(("stuck", self._call(node)), [node], _all_inside(node))
        elif node.kind == "pair":
            self._add_transfer(node)
        elif node.kind == "hidden":
            self._case(("hidden", node.name), [node], lambda court: nobody_left(court, node))

    def _add_transfer(self, node: Node) -> None:
        answer = both_in(self.court, node)
        if isinstance(answer, Unclear):
            self.unclear.append(answer.why)
        elif answer is not None:
            self._case(("transfer", self._call(node)), [node], lambda court: both_in(court, node) or answer)

    def _leave_out_hidden(self) -> None:
        """Remove the roots of gloo's operations if one may wait for another in a send that is not recorded."""
        of_gloo = [
            (kind, node)
            for kind, node in self.awaited
            if kind == "rank" and node.kind == "op" and self.court.proofs.is_gloo(self.waits.group_of(node))
        ]
        ranks = sorted({root.number for key in of_gloo for root in self.awaited[key]})
        if not self.court.proofs.may_be_in_p2p(ranks):
            return
        for key in of_gloo:
            del self.awaited[key]
        self.unclear.append(
            f"others wait for {ranks_of(ranks)}, and gloo does not record the sends and receives in which one of them"
            " may be waiting for another: their stacks would show it"
        )

    def _undecided(self, nodes: Sequence[Node]) -> None:
        """Note that sends or receives may be done or may lack their other end, and what would show which."""
        pair = self.waits.open.pairs[nodes[0].number]
        mine, other = ("send", "recv") if pair.is_send else ("recv", "send")
        more = f" (and {len(nodes) - 1} more like it)" if len(nodes) > 1 else ""
        self.unclear.append(
            f"rank {pair.rank} has a {mine} open{more} for which rank {pair.partner} has no {other} open; their rings"
            " no longer hold the oldest entries, so it may be done but not yet marked, or waiting for its other end:"
            " dumps taken a few seconds later, or both ranks' stacks, would show which"
        )

    def _call(self, node: Node) -> str:
        """Return the name of an operation, without a send's ranks; findings with the same name can be folded."""
        row = next(iter(self.waits.rows_of(node).values()), None)
        return node.name if row is None else self.court.trace.call_of(row).name.partition(" ")[0]

    def _first_waiting(self, root: Node) -> Node | None:
        """Return the operation that waits for a rank directly; if several do, the one entered first."""
        direct = [node for node in self.waits.graph.back[root] if node in self.waited_in]
        return min(direct, key=lambda node: (self.court.undecided(node), *self.court.entered_first(node)), default=None)


def _absence(kind: str, operation: Node, ranks: list[int]) -> Answer:
    if kind == "lost":
        return lambda court: lost(court, operation, ranks)
    return lambda court: roots_differ(court, operation, ranks) or _late(court, operation, ranks)


def _late(court: Court, operation: Node, ranks: Sequence[int]) -> Finding | Unclear:
    """Return the finding about those of the ranks that an operation waits for that are not at work."""
    working = at_work(court, operation, ranks)
    if len(working) == len(ranks):
        return may_end(court, operation, ranks)
    found = absent(court, operation, [rank for rank in ranks if rank not in working])
    if isinstance(found, Finding):
        found.evidence += [fact for rank in working[:4] for fact in work_of(court, rank)]
    return found


def _all_inside(node: Node) -> Answer:
    return lambda court: (
        roots_differ(court, node, sorted(court.waits.rows_of(node))) or behind(court, node) or stuck(court, node)
    )


def _disagreement(node: Node, mismatch: Mismatch) -> Answer:
    return lambda court: disagreement(court, node, mismatch)
