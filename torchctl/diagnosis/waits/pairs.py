"""Sends and receives: which open ones have no partner.

How this works. The two ends have different sequence ids, so the n-th send of one rank to another is paired with the
other's n-th receive from it. If a ring has lost its oldest entries, both are counted from the first collective that
both ranks still show. If they show none, only the open ones on both sides are paired, and the surplus has no partner. A
small send is done before its recv is posted, so that proves nothing if a ring shows sends that are done, or may have
lost open ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod

import numpy as np

from torchctl.diagnosis.waits.waiting import OpenPair
from torchctl.flightrec.table.trace import State, Trace

_BYTES = {
    **dict.fromkeys(("Byte", "Char", "Bool", "Float8_e5m2", "Float8_e4m3fn"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}  # as recorders spell the types of elements
Pair = tuple[int, int, int]  # group, sending rank, receiving rank


def find_open_pairs(trace: Trace, usable: frozenset[int], ignored: frozenset[int]) -> list[OpenPair]:
    """Return the sends and receives that some rank has open; arguments as in `entered.find_open`."""
    is_pair = np.array([operation.is_p2p for operation in trace.operations] or [False])
    rows = np.flatnonzero(is_pair[trace.operation]) if len(trace) else np.zeros(0, np.int64)
    open_rows = [row for row in rows[trace.state[rows] <= State.LATE].tolist() if int(trace.rank[row]) not in ignored]
    if not open_rows:
        return []
    wanted = {pair for row in open_rows if (pair := _pair(trace, row)) is not None}
    sends: dict[Pair, list[int]] = defaultdict(list)
    receives: dict[Pair, list[int]] = defaultdict(list)
    for row in rows.tolist():
        pair = _pair(trace, row)
        if pair in wanted and pair is not None:
            is_send = trace.operations[int(trace.operation[row])].is_send
            if int(trace.rank[row]) == pair[1 if is_send else 2]:
                (sends if is_send else receives)[pair].append(row)
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    anchors, oldest_open = _Anchors(trace), _oldest_open(trace)
    found: list[OpenPair] = []
    for pair in sorted(wanted):
        exact = pair[1] not in wrapped and pair[2] not in wrapped
        anchor = None if exact else anchors.of(pair[1], pair[2])
        if anchor is not None:
            sends[pair] = [row for row in sends[pair] if row > anchor[0]]
            receives[pair] = [row for row in receives[pair] if row > anchor[1]]
            exact = True
        for is_send, mine, theirs in ((True, sends[pair], receives[pair]), (False, receives[pair], sends[pair])):
            found += _of_one_end(trace, pair, is_send, mine, theirs, exact, usable, oldest_open)
    return [one for one in found if one.rank not in ignored]


def _oldest_open(trace: Trace) -> dict[int, int]:
    """Return the oldest open row of each rank; a batch counts by its members, not its closing row."""
    closing = np.array([operation.ends_batch for operation in trace.operations] or [False])
    found: dict[int, int] = {}
    for row in np.flatnonzero((trace.state <= State.LATE) & ~closing[trace.operation]).tolist():
        found.setdefault(int(trace.rank[row]), row)
    return found


class _Anchors:
    """Finds the first collective that two ranks both show: what precedes it on one precedes it on the other."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._rows: dict[int, dict[tuple[int, int], int]] = {}

    def of(self, one: int, other: int) -> tuple[int, int] | None:
        """Return its row on each of the two ranks; None if they share no collective."""
        mine, theirs = self._of(one), self._of(other)
        first = min(mine.keys() & theirs.keys(), key=mine.__getitem__, default=None)
        return None if first is None else (mine[first], theirs[first])

    def _of(self, rank: int) -> dict[tuple[int, int], int]:
        found = self._rows.get(rank)
        if found is None:
            trace = self._trace
            rows = np.flatnonzero((trace.rank == rank) & trace.collectives())
            keys = zip(trace.group[rows].tolist(), trace.seq[rows].tolist(), strict=True)
            found = self._rows[rank] = dict(zip(keys, rows.tolist(), strict=True))
        return found


def outrun_senders(trace: Trace) -> set[int]:
    """Return the ranks whose dump lacks a send that another rank has received, so it was taken earlier."""
    is_pair = np.array([operation.is_p2p for operation in trace.operations] or [False])
    rows = np.flatnonzero(is_pair[trace.operation]) if len(trace) else np.zeros(0, np.int64)
    if not len(rows):
        return set()
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    dumped = set(trace.ranks)
    sent: dict[Pair, int] = defaultdict(int)
    received: dict[Pair, int] = defaultdict(int)
    width = len(trace.operations)
    same = (trace.group[rows].astype(np.int64) * width + trace.operation[rows]) * (int(trace.rank.max()) + 1)
    _, first, place = np.unique(same + trace.rank[rows], return_index=True, return_inverse=True)
    counts = np.bincount(place).tolist()
    done = np.bincount(place[trace.state[rows] == State.DONE], minlength=len(counts)).tolist()
    for at, row in enumerate(rows[first].tolist()):
        pair, is_send = _pair(trace, row), trace.operations[int(trace.operation[row])].is_send
        if pair is not None and int(trace.rank[row]) == pair[1 if is_send else 2]:
            (sent if is_send else received)[pair] += counts[at] if is_send else done[at]
    return {
        sender
        for (group, sender, receiver), count in received.items()
        if count > sent[group, sender, receiver] and sender in dumped and not {sender, receiver} & wrapped
    }


def _pair(trace: Trace, row: int) -> Pair | None:
    """Return group, sender and receiver in global ranks; None if the members are not known well enough."""
    operation = trace.operations[int(trace.operation[row])]
    number = int(trace.group[row])
    members = trace.groups[number].members
    sender, receiver = operation.sender, operation.receiver
    if sender is None or receiver is None or max(sender, receiver) >= len(members):
        return None
    return number, members[sender], members[receiver]


def _of_one_end(
    trace: Trace,
    pair: Pair,
    is_send: bool,
    mine: list[int],
    theirs: list[int],
    exact: bool,
    usable: frozenset[int],
    oldest_open: Mapping[int, int],
) -> list[OpenPair]:
    group, sender, receiver = pair
    rank, partner = (sender, receiver) if is_send else (receiver, sender)
    my_open = [row for row in mine if trace.state[row] <= State.LATE]
    their_open = [row for row in theirs if trace.state[row] <= State.LATE]
    sure = _starts_done(trace, mine) and _starts_done(trace, theirs)
    found = []
    for at, row in enumerate(my_open):
        # A recv whose send is done will finish, unless it is queued behind something else.
        counted = exact or (sure and (is_send or row <= oldest_open.get(rank, row)))
        other: int | None = None
        if exact:
            place = mine.index(row) if len(mine) < 64 else len(mine) - len(my_open) + at
            other = theirs[place] if place < len(theirs) else None
        elif at < len(their_open):
            other = their_open[at]
        alone = None if partner not in usable else other is None
        found.append(OpenPair(group, rank, partner, is_send, row, alone, other, counted))
    return found


def _starts_done(trace: Trace, rows: list[int]) -> bool:
    """Whether the oldest of these rows is done: then whatever the ring lost before it is done, too."""
    return bool(rows) and bool(trace.state[rows[0]] == State.DONE)


def ends_differ(trace: Trace, pair: OpenPair) -> bool:
    """Whether the two ends of a transfer have different sizes; False if one is unknown."""
    if pair.other is None:
        return False
    mine, theirs = elements(trace, pair.row), elements(trace, pair.other)
    if mine is None or theirs is None:
        return False
    each, other = element_bytes(trace, pair.row), element_bytes(trace, pair.other)
    if each is not None and other is not None:
        return mine * each != theirs * other
    return mine != theirs


def elements(trace: Trace, row: int) -> int | None:
    """Return how many elements an end of a transfer has; None if its recorder does not say."""
    call = trace.call_of(row)
    sizes = call.input_sizes or call.output_sizes
    return sum(map(prod, sizes)) if sizes else None


def element_bytes(trace: Trace, row: int) -> int | None:
    """Return how many bytes an element of a transfer has; None for a type that is not known."""
    return _BYTES.get(trace.call_of(row).dtype)
