"""Parts of an all_to_all whose two ends differ: what one rank sends another must be what that one expects.

How this works. Where tensors are recorded one by one, input i of a rank is compared with the output of rank i that
belongs to it. A rank is named only if every part that differs is its own, with two other ranks or more, or with
itself. all_to_all_single records only totals, so only the sums over the whole group can contradict each other, and
then no rank is named.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp and ProcessGroupGloo.cpp (2.13), which call both all_to_all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from torchctl.diagnosis.waits.entered import collectives, keys_of
from torchctl.diagnosis.waits.waiting import Mismatch, Part
from torchctl.flightrec.table.trace import Group, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Flags, Ints

_NAMES = ("all_to_all", "all_to_all_base", "all_to_all_single")
_MAX_LOOKED_AT = 5000  # instances whose lists are compared


def uneven_splits(trace: Trace) -> Iterator[Mismatch]:
    """Yield the all_to_alls in which the two ends of a part differ, by group and sequence id."""
    wanted = [at for at, operation in enumerate(trace.operations) if operation.name in _NAMES]
    rows = np.flatnonzero(np.isin(trace.operation, wanted) & collectives(trace)) if wanted else np.zeros(0, np.int64)
    if not len(rows):
        return
    rows = rows[np.argsort(keys_of(trace, rows), kind="stable")]
    keys = keys_of(trace, rows)
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    ends = np.append(starts[1:], len(keys))
    left_over, alike = _by_call(trace, np.unique(trace.call[rows]))
    kinds = alike[trace.call[rows]]
    uneven = np.minimum.reduceat(kinds, starts) != np.maximum.reduceat(kinds, starts)
    uneven |= np.minimum.reduceat(kinds, starts) < 0
    unequal = np.add.reduceat(left_over[trace.call[rows]], starts) != 0
    unequal &= ends - starts == _members(trace)[trace.group[rows[starts]]]
    looked_at = 0
    for at in np.flatnonzero(uneven | unequal).tolist():
        mine = rows[starts[at] : ends[at]].tolist()
        by_rank = {int(trace.rank[row]): row for row in mine}
        if looked_at < _MAX_LOOKED_AT and (parts := _listed(trace, by_rank)) is not None:
            looked_at += 1
            if parts:
                yield _of_parts(trace, by_rank, parts)
        elif unequal[at] and len(by_rank) == len(mine):
            group, seq = int(trace.group[mine[0]]), int(trace.seq[mine[0]])
            calls = [trace.call_of(row) for row in mine]
            totals = (
                sum(prod(sizes) for call in calls for sizes in call.input_sizes),
                sum(prod(sizes) for call in calls for sizes in call.output_sizes),
            )
            sides = (tuple(sorted(by_rank)),)
            yield Mismatch("shape_mismatch", group, seq, (), by_rank, sides, totals=totals)


def _by_call(trace: Trace, calls: Ints) -> tuple[Ints, Ints]:
    """Return, for each call, the elements of its inputs minus those of its outputs, and a number for its lists.

    That number is -1 for an uneven list. Calls with the same number otherwise have even lists of the same size, or
    record only totals.
    """
    left_over, alike = np.zeros(len(trace.calls), np.int64), np.zeros(len(trace.calls), np.int64)
    for number in calls.tolist():
        call = trace.calls[number]
        ins, outs = list(map(prod, call.input_sizes)), list(map(prod, call.output_sizes))
        left_over[number] = sum(ins) - sum(outs)
        if len(ins) > 1 or len(outs) > 1:
            alike[number] = ins[0] + 1 if ins and len({*ins, *outs}) == 1 else -1
    return left_over, alike


def _members(trace: Trace) -> Ints:
    """Return the number of members of each group, 0 if they are not known for certain."""
    return np.array([len(group.members) if _members_known(trace, group) else 0 for group in trace.groups])


def _members_known(trace: Trace, group: Group) -> bool:
    return group.known or (group.default and trace.world_size == len(group.members))


def _listed(trace: Trace, by_rank: dict[int, int]) -> list[Part] | None:
    """Return the parts of one all_to_all whose two ends differ; None if tensors are not recorded one by one."""
    group = trace.groups[int(trace.group[next(iter(by_rank.values()))])]
    count = len(group.members)
    calls = {rank: trace.call_of(row) for rank, row in by_rank.items()}
    if any(len(call.input_sizes) != count or len(call.output_sizes) != count for call in calls.values()):
        return None
    if (
        count < 2
        or not _members_known(trace, group)
        or not _in_order(trace, group)
        or not calls.keys() <= {*group.members}
    ):
        return None
    places = [place for place, rank in enumerate(group.members) if rank in calls]
    seen = [group.members[place] for place in places]
    sent = np.array([list(map(prod, calls[rank].input_sizes)) for rank in seen])[:, places]
    expected = np.array([list(map(prod, calls[rank].output_sizes)) for rank in seen])[:, places].T
    differ: Flags = sent != expected
    return [
        Part(seen[sender], seen[receiver], int(sent[sender, receiver]), int(expected[sender, receiver]))
        for sender, receiver in np.argwhere(differ).tolist()
    ]


def _in_order(trace: Trace, group: Group) -> bool:
    """Whether all dumps state the members in the order of their ranks: lists follow the group's own order."""
    stated = [one.ranks for dump in trace.dumps for one in dump.groups if one.name == group.name and one.ranks]
    return all(ranks == tuple(sorted(ranks)) for ranks in {id(ranks): ranks for ranks in stated}.values())


def _of_parts(trace: Trace, by_rank: dict[int, int], parts: list[Part]) -> Mismatch:
    partners: dict[int, set[int]] = defaultdict(set)
    for part in parts:
        partners[part.sender].add(part.receiver)
        partners[part.receiver].add(part.sender)
    in_all = [rank for rank in partners if all(rank in (part.sender, part.receiver) for part in parts)]
    wrong = [rank for rank in in_all if len(partners[rank] - {rank}) > 1 or partners[rank] == {rank}]
    row = next(iter(by_rank.values()))
    group, seq = int(trace.group[row]), int(trace.seq[row])
    minority = tuple(wrong) if len(wrong) == 1 else ()
    others = tuple(sorted(by_rank.keys() - {*minority}))
    sides = (others, minority) if minority and others else tuple((rank,) for rank in sorted(partners))
    return Mismatch("shape_mismatch", group, seq, minority, by_rank, sides, parts=tuple(parts))
