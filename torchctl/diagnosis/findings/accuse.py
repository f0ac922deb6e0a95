"""Roots of the wait-for graph to findings: whom to name, of what, how surely, and who waits for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torchctl.diagnosis.findings.absent import absent
from torchctl.diagnosis.findings.circles import circle, went_past
from torchctl.diagnosis.findings.disagreement import disagreement
from torchctl.diagnosis.findings.folding import MAX_ALIKE, fold
from torchctl.diagnosis.findings.stuck import nobody_left, stuck
from torchctl.diagnosis.findings.words import ranks_of
from torchctl.diagnosis.model import Collective, Finding, GroupName, Location
from torchctl.diagnosis.waits.mismatch import Mismatch
from torchctl.diagnosis.waits.waiting import Node, Waits
from torchctl.flightrec.table.trace import NO_SEQ, NO_TIME
from torchctl.flightrec.view.userframe import user_frame


def accuse(waits: Waits) -> tuple[list[Finding], list[str]]:
    """Return the findings of all roots, and what could not be told."""
    made = Accuser(waits)
    return made.findings(), made.unknown


@dataclass(frozen=True, slots=True)
class Case:
    """Roots that one finding is about, and how it is made."""

    roots: Sequence[Node]
    tell: Callable[[], list[Finding]]


class Accuser:
    """The roots of one graph, and what findings about them need.

    Attributes:
        waited_in: nodes of operations in which a rank waits.
        unknown: what could not be told, in words.
    """

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.trace = waits.trace
        self.waited_in = {node for nodes in waits.blocked.values() for node in nodes}
        self.unknown: list[str] = []
        self._searching = True
        self._last_rows: dict[int, int] | None = None
        self._entered: dict[Node, tuple[int, int, int]] = {}

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        for alike in self._cases().values():
            found += self._many(alike) if len(alike) > MAX_ALIKE else [one for case in alike for one in case.tell()]
        self.unknown = list(dict.fromkeys(self.unknown))
        return found

    def _cases(self) -> dict[tuple[str, ...], list[Case]]:
        """Return what to tell of each root, by kind and operation: what is alike is told together if it is much."""
        cases: dict[tuple[str, ...], list[Case]] = defaultdict(list)
        by_operation: dict[tuple[str, Node], list[Node]] = defaultdict(list)
        for component in self.waits.graph.roots():
            node = component[0]
            if any(map(self.waits.undecided, component)):
                self._cannot_tell([node for node in component if self.waits.undecided(node)])
            elif len(component) > 1:
                alone = went_past(self, component)
                if alone is not None:
                    by_operation["rank", alone[1]].append(alone[0])
                else:
                    cases["circle", ""].append(Case(component, partial(self._circle, component)))
            elif node.kind in ("rank", "lost"):
                operation = self._first_waiting(node)
                if operation is not None:
                    if self.waits.undecided(operation):
                        self._cannot_tell([operation])
                    else:
                        by_operation[node.kind, operation].append(node)
            elif node.kind == "op" and self.waits.ops[node.number] in self.waits.holding:
                pass  # it may just be running: a second look would tell
            elif node.kind == "op":
                cases["stuck", self._call(node)].append(Case([node], partial(stuck, self, node)))
            elif node.kind == "pair":
                self.unknown.append("a send and its recv are both there and not done; they may be in flight")
            elif node.kind == "hidden":
                cases["hidden", node.name].append(Case([node], partial(nobody_left, self, node)))
        self._leave_out_hidden(by_operation)
        for (kind, operation), nodes in by_operation.items():
            tell = partial(absent, self, kind, operation, [node.number for node in nodes])
            cases[kind, operation.kind, self._call(operation)].append(Case(nodes, tell))
        for number, mismatch in enumerate(self.waits.mismatches):
            node = Node("mismatch", number)
            cases["mismatch", mismatch.what].append(Case([node], partial(self._disagreement, node, mismatch)))
        return cases

    def _leave_out_hidden(self, by_operation: dict[tuple[str, Node], list[Node]]) -> None:
        """Take out the roots of gloo's operations where one may wait for another in a send that is not recorded."""
        of_gloo = [
            (kind, node)
            for kind, node in by_operation
            if kind == "rank" and node.kind == "op" and self.waits.is_gloo(self.waits.group_of(node))
        ]
        ranks = sorted({root.number for case in of_gloo for root in by_operation[case]})
        if not self.waits.may_be_in_p2p(ranks):
            return
        for case in of_gloo:
            del by_operation[case]
        self.unknown.append(
            f"others wait for {ranks_of(ranks)}, and gloo does not record the sends and receives in which one of them"
            " may wait for another: their stacks would tell"
        )

    def _many(self, cases: Sequence[Case]) -> list[Finding]:
        """Return the findings of many cases, those alike as one; who waits is searched for once, not for each."""
        self._searching = False
        alike: dict[tuple[str, str, bool], list[tuple[Case, Finding]]] = defaultdict(list)
        for case in cases:
            for finding in case.tell():
                alike[finding.kind, finding.confidence, bool(finding.culprit_ranks)].append((case, finding))
        self._searching = True
        found: list[Finding] = []
        for same in alike.values():
            if len(same) <= MAX_ALIKE:
                found += [finding for case, _ in same for finding in case.tell()]
            else:
                roots = [root for case, _ in same for root in case.roots]
                found.append(fold([finding for _, finding in same], self.waiting(roots, ())))
        return found

    def _cannot_tell(self, nodes: Sequence[Node]) -> None:
        """Say that sends or receives may be done, or may lack their other end, and what would tell."""
        pair = self.waits.pairs[nodes[0].number]
        mine, other = ("send", "recv") if pair.is_send else ("recv", "send")
        more = f" (and {len(nodes) - 1} more like it)" if len(nodes) > 1 else ""
        self.unknown.append(
            f"rank {pair.rank} has a {mine} open{more} for which rank {pair.partner} has no {other} open; their rings"
            " have lost their beginnings, so it may be done and not marked yet, or wait for its other end:"
            " dumps taken again some seconds later, or both ranks' stacks, would tell"
        )

    def _circle(self, component: list[Node]) -> list[Finding]:
        return [circle(self, component)]

    def _disagreement(self, node: Node, mismatch: Mismatch) -> list[Finding]:
        return [disagreement(self, node, mismatch)]

    def _call(self, node: Node) -> str:
        """Return the name of an operation without the ranks of a send: what its finding is folded by."""
        row = next(iter(self.waits.rows_of(node).values()), None)
        return node.name if row is None else self.trace.call_of(row).name.partition(" ")[0]

    def waiting(self, roots: Iterable[Node], culprits: Iterable[int]) -> tuple[int, ...]:
        """Return the ranks that wait for `roots`, at once or through others; none while many cases are compared."""
        if not self._searching:
            return ()
        reached = self.waits.graph.waiting_for(roots)
        ranks = {node.number for node in reached if node.kind == "rank" and node.number in self.waits.blocked}
        return tuple(sorted(ranks - set(culprits)))

    def last_row(self, rank: int) -> int | None:
        """Return the row that a rank has launched last; None where its dumps hold none."""
        if self._last_rows is None:
            self._last_rows = {}
            created = self.trace.created_ns
            for dump in self.trace.dumps:
                row, other = dump.first_row + dump.rows - 1, self._last_rows.get(dump.rank)
                if dump.rows and (other is None or created[row] > created[other]):
                    self._last_rows[dump.rank] = row
        return self._last_rows.get(rank)

    def group(self, number: int) -> GroupName:
        group = self.trace.groups[number]
        return GroupName(group.name, group.desc, group.members, group.known)

    def collective(self, node: Node) -> tuple[Collective | None, GroupName | None]:
        if node.kind == "hidden":
            return Collective(node.name, None, node.name.startswith("send"), (), (), ""), None
        rows = self.waits.rows_of(node)
        if not rows:
            return None, None
        return self.collective_of_row(min(rows.values()), list(rows.values()))

    def collective_of_row(self, row: int, rows: Sequence[int]) -> tuple[Collective, GroupName]:
        call, seq = self.trace.call_of(row), int(self.trace.seq[row])
        times = [int(self.trace.created_ns[at]) for at in rows if self.trace.created_ns[at] != NO_TIME]
        made = Collective(
            call.name,
            None if seq == NO_SEQ else seq,
            bool(self.trace.p2p[row]),
            call.input_sizes,
            call.output_sizes,
            call.dtype,
            min(times, default=None),
        )
        return made, self.group(int(self.trace.group[row]))

    def location(self, ranks: Sequence[int], rows: dict[int, int] | None = None) -> Location | None:
        """Return where the first culprit stands by its stack, else where it has launched its row."""
        for rank in ranks:
            activity = self.waits.activity.get(rank)
            if activity is not None and activity.location is not None:
                return activity.location
        for rank in ranks:
            row = (rows or {}).get(rank)
            frame = user_frame(self.trace.stack_of(row)) if row is not None else None
            if frame is not None:
                return Location(rank, frame.filename, frame.line, frame.name)
        return None

    def _first_waiting(self, root: Node) -> Node | None:
        """Return the operation that waits for a rank itself; of several the one that was entered first."""
        direct = [node for node in self.waits.graph.back[root] if node in self.waited_in]
        return min(direct, key=lambda node: (self.waits.undecided(node), *self.entered_first(node)), default=None)

    def entered_first(self, node: Node) -> tuple[int, int, int]:
        """Return a key that sorts operations by the moment of their first rank; a thousand roots may ask for one."""
        found = self._entered.get(node)
        if found is None:
            rows = self.waits.rows_of(node)
            times = self.trace.created_ns[list(rows.values())]
            times = times[times != NO_TIME]
            first = int(times.min()) if len(times) else 1 << 62
            found = self._entered[node] = (first, -len(rows), node.number)
        return found
