"""Ranks that disagree about one collective: its operation, its sizes or its types.

How this works. Rows are sorted by (group, sequence id), and in each run only the smallest and the largest number of
operation, sizes and types are compared: if they are equal all ranks agree, as they do nearly everywhere. The rest is
compared rank by rank. The majority decides; a tie names no rank. A majority counts as a tie if ranks whose ring does
not reach back far enough, or that left no dump, could turn it into one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from torchctl.diagnosis.waits.entered import Windows, collectives, keys_of
from torchctl.diagnosis.waits.splits import uneven_splits
from torchctl.diagnosis.waits.waiting import Disagreement, Mismatch
from torchctl.flightrec.table.trace import Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Ints

_MAX_LOOKED_AT = 5000  # instances; one skipped operation shifts all that follow, and only the first matters


def find_mismatches(trace: Trace, windows: Windows) -> list[Mismatch]:
    """Return the first disagreement of each group that shows who differs, or else its first one."""
    if not len(trace):
        return []
    names = _numbers({at: operation.name for at, operation in enumerate(trace.operations)})
    sizes = _numbers({at: signature.sizes for at, signature in enumerate(trace.signatures)})
    dtypes = _numbers({at: signature.dtypes for at, signature in enumerate(trace.signatures)})
    found: dict[int, Mismatch] = {}
    rows = np.flatnonzero(collectives(trace))
    keys = keys_of(trace, rows)
    columns = [names[trace.operation[rows]], sizes[trace.signature[rows]], dtypes[trace.signature[rows]]]
    for run in _disagreeing(keys, columns):
        group = int(trace.group[rows[run[0]]])
        before = found.get(group)
        if before is None or _undecided(before):
            mismatch = _judge(trace, rows[run].tolist(), windows)
            if mismatch is not None and (before is None or _decides(mismatch, before)):
                found[group] = mismatch
    contradicted = (*_contradictions(trace), *uneven_splits(trace))
    for mismatch in (*_in_batches(trace, windows, names, sizes, dtypes), *contradicted):
        before = found.get(mismatch.group)
        if before is None or mismatch.seq < before.seq:
            found[mismatch.group] = mismatch
    return list(found.values())


def _contradictions(trace: Trace) -> Iterator[Mismatch]:
    """Yield, for each group, the first all_reduce that returns more or fewer elements than it takes, as a single side.

    Gloo's are left out: it records reduce_scatter_tensor under that name, and there the two may differ.
    What all_gather_into_tensor and reduce_scatter_tensor return for what they take, torch itself checks before it
    records them.
    """
    calls = [
        at
        for at, call in enumerate(trace.calls)
        if call.name == "all_reduce"
        and not call.profiling_name.startswith("gloo:")
        and call.input_sizes
        and call.output_sizes
        and sum(map(prod, call.input_sizes)) != sum(map(prod, call.output_sizes))
    ]
    if not calls:
        return
    rows = np.flatnonzero(np.isin(trace.call, calls) & collectives(trace))
    keys = keys_of(trace, rows)
    for group in np.unique(trace.group[rows]).tolist():
        mine = rows[keys == keys[trace.group[rows] == group].min()].tolist()
        by_rank = {int(trace.rank[row]): row for row in mine}
        yield Mismatch("shape_mismatch", group, int(trace.seq[mine[0]]), (), by_rank, (tuple(sorted(by_rank)),))


def _undecided(mismatch: Mismatch) -> bool:
    return bool(mismatch.unseen) and not mismatch.minority


def _decides(later: Mismatch, first: Mismatch) -> bool:
    """Whether a later disagreement, which more ranks show, is the same: its minority was a side of the first."""
    few = set(later.minority) & first.rows.keys()
    return bool(few) and any(few == set(side) for side in first.sides)


def _numbers(values: Mapping[int, Hashable]) -> Ints:
    """Number the values from 0, equal values the same; None, which agrees with everything, becomes -1."""
    numbers: dict[Hashable, int] = {}
    return np.array(
        [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values.values()] or [0]
    )


def _disagreeing(keys: Ints, columns: list[Ints]) -> Iterator[Ints]:
    """Yield the places of each run of equal keys in which a column has two different numbers, by key."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    differs = np.zeros(len(starts), np.bool_)
    for column in columns:
        values = column[order]
        high = np.maximum.reduceat(values, starts)
        low = np.minimum.reduceat(np.where(values < 0, np.iinfo(np.int64).max, values), starts)
        differs |= (high >= 0) & (low != high)
    ends = np.append(starts[1:], len(keys))
    for at in np.flatnonzero(differs)[:_MAX_LOOKED_AT].tolist():
        yield order[starts[at] : ends[at]]


def _judge(trace: Trace, rows: list[int], windows: Windows) -> Mismatch | None:
    by_rank = {int(trace.rank[row]): row for row in rows}
    if len(by_rank) < 2:
        return None
    operations = {rank: trace.operations[int(trace.operation[row])] for rank, row in by_rank.items()}
    closing = [operation.ends_batch for operation in operations.values()]
    # On a rank that has not closed a batch yet, the batch shows as its members.
    if any(closing) and not all(closing) and _unclosed(trace, rows):
        return None
    signatures = {rank: trace.signatures[int(trace.signature[row])] for rank, row in by_rank.items()}
    said: dict[Disagreement, dict[int, Hashable]] = {
        "op_mismatch": {rank: operation.name for rank, operation in operations.items()},
        "shape_mismatch": {rank: made.sizes for rank, made in signatures.items()},
        "dtype_mismatch": {rank: made.dtypes for rank, made in signatures.items()},
    }
    for what, words in said.items():
        mismatch = _part(what, trace, by_rank, words, windows)
        if mismatch is not None:
            return mismatch
    return None


def _unclosed(trace: Trace, rows: list[int]) -> bool:
    """Whether the ranks without a closing row may be in the middle of the same batch."""
    members = np.flatnonzero(trace.member)
    members = members[(trace.group[members] == trace.group[rows[0]]) & (trace.seq[members] == trace.seq[rows[0]])]
    inside = {trace.operations[number].name for number in np.unique(trace.operation[members]).tolist()}
    open_names = {
        operation.name for row in rows if not (operation := trace.operations[int(trace.operation[row])]).ends_batch
    }
    return bool(open_names & inside)


def _part(
    what: Disagreement, trace: Trace, rows: dict[int, int], said: Mapping[int, Hashable], windows: Windows
) -> Mismatch | None:
    """Return the disagreement between the ranks' values; None if all known values agree."""
    told = {rank: word for rank, word in said.items() if word is not None}
    counts = Counter(told.values()).most_common()
    if len(counts) < 2:
        return None
    sides = tuple(tuple(sorted(rank for rank, word in told.items() if word == side)) for side, _ in counts)
    first = rows[sides[0][0]]
    group, seq = int(trace.group[first]), int(trace.seq[first])
    unseen = tuple(rank for rank in trace.groups[group].members if rank not in rows and windows.lost(group, rank, seq))
    turned = counts[0][1] <= counts[1][1] + len(unseen)
    minority = () if turned else tuple(sorted(rank for side in sides[1:] for rank in side))
    return Mismatch(what, group, seq, minority, rows, sides, unseen)


def _in_batches(trace: Trace, windows: Windows, names: Ints, sizes: Ints, dtypes: Ints) -> Iterator[Mismatch]:
    """Yield disagreements inside coalesced batches that have the same number of members on every rank."""
    rows = np.flatnonzero(trace.member & ~trace.p2p)
    if not len(rows):
        return
    # The place of each member within its batch on its rank.
    order = np.lexsort((rows, trace.dump[rows], keys_of(trace, rows)))
    rows = rows[order]
    keys = keys_of(trace, rows)
    fresh = np.append(True, (keys[1:] != keys[:-1]) | (trace.dump[rows[1:]] != trace.dump[rows[:-1]]))
    starts = np.flatnonzero(fresh)
    lengths = np.diff(np.append(starts, len(rows)))
    run = np.cumsum(fresh) - 1
    place = np.arange(len(rows)) - starts[run]
    instance = np.cumsum(np.append(True, keys[1:] != keys[:-1])) - 1
    count = int(instance[-1]) + 1
    least, most = np.full(count, 1 << 30), np.zeros(count, np.int64)
    np.minimum.at(least, instance, lengths[run])
    np.maximum.at(most, instance, lengths[run])
    even = least[instance] == most[instance]
    rows, joined = rows[even], (instance * (int(place.max()) + 1) + place)[even]
    columns = [names[trace.operation[rows]], sizes[trace.signature[rows]], dtypes[trace.signature[rows]]]
    for found in _disagreeing(joined, columns):
        mismatch = _judge(trace, rows[found].tolist(), windows)
        if mismatch is not None:
            yield mismatch
