"""Which local groups of many ranks are one process group, and who its members are.

How this works. A rank knows a group by a number of its own and by a name that need not be the only one: split
groups share names, and a second init_process_group begins again with the same. So a group is its name, its
backend and its members; and of several groups of one name on one rank, the newest is matched with the newest.
Where a dump does not state the members (gloo after new_group), they are those who have been seen in it, and for
the default group everybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.pieces import Piece
from torchctl.flightrec.trace import Group

if TYPE_CHECKING:
    from torchctl.flightrec.trace import Ints, SmallInts


def join_groups(
    pieces: Sequence[Piece], keys: Ints, texts: Sequence[str], families: Sequence[str]
) -> tuple[SmallInts, list[Group], int | None]:
    """Return the job-wide number of each local group, the groups, and the world size where the dumps state it.

    Args:
        pieces: the dumps.
        keys: (dump, pg_id, name, description, family) of each local group, [local groups, 5]; the last three are
            numbers in `texts` and `families`.
    """
    known_sets = MemberSets()
    stated = [_stated(piece, known_sets) for piece in pieces]
    # The other members' dumps tell a group's ranks too, where a rank's own leaves them out.
    named: dict[str, dict[int, Members]] = defaultdict(dict)
    for table in stated:
        for name, found in table.items():
            named[name][id(found)] = found
    epochs = _epochs(keys)
    world = _world(pieces, known_sets)
    groups: list[Group] = []
    numbers: dict[tuple[str, str, int, int], int] = {}
    seen: list[set[int]] = []
    number = np.zeros(len(keys), np.int32)
    for at, (dump, _, name_at, desc_at, family) in enumerate(keys.tolist()):
        piece, name, desc = pieces[dump], texts[name_at], texts[desc_at]
        members = stated[dump].get(name) if epochs[at] == 0 else None
        if members is None and epochs[at] == 0:
            possible = [one for one in named.get(name, {}).values() if piece.rank in one.ranks]
            members = possible[0] if len(possible) == 1 else None
        key = (name, families[family], id(members), epochs[at])
        if key not in numbers:
            numbers[key] = len(groups)
            ordered = members.ordered if members is not None else ()
            groups.append(Group(name, desc, families[family], ordered, members is not None, None, epochs[at]))
            seen.append(set())
        number[at] = numbers[key]
        seen[numbers[key]].add(piece.rank)
    # The default group has all ranks, those too that a gap in the dumps' ranks tells of.
    everybody = set(range(max([world or 0, *(piece.rank + 1 for piece in pieces)])))
    for group, in_it in zip(groups, seen, strict=True):
        if not group.known:
            group.members = tuple(sorted(in_it | (everybody if group.default else set())))
    return number, groups, world


@dataclass(frozen=True, slots=True)
class Members:
    """One set of global ranks, in order and for looking up."""

    ordered: tuple[int, ...]
    ranks: frozenset[int]


class MemberSets:
    """Each set of ranks once: a thousand dumps state the same thousand ranks, so sets are told apart by `id`."""

    def __init__(self) -> None:
        self._by_object: dict[int, Members] = {}
        self._by_value: dict[tuple[int, ...], Members] = {}

    def of(self, ranks: tuple[int, ...]) -> Members:
        """Return the one object for a set; `ranks` must live as long as this one."""
        found = self._by_object.get(id(ranks))
        if found is None:
            members = frozenset(ranks)
            ordered = tuple(sorted(members))
            found = self._by_object[id(ranks)] = self._by_value.setdefault(ordered, Members(ordered, members))
        return found


def _stated(piece: Piece, sets: MemberSets) -> dict[str, Members]:
    """Return the members of each group that a dump states, those that its own rank is in."""
    found: dict[str, Members] = {}
    for group in piece.groups:
        if group.name and group.ranks and group.name not in found:
            members = sets.of(group.ranks)
            if piece.rank in members.ranks:
                found[group.name] = members
    return found


def _epochs(keys: Ints) -> list[int]:
    """Return, for each local group, 0 for the newest of its name on its rank, -1 for the one before, and so on."""
    by_name: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for at, (dump, pg_id, name, desc, family) in enumerate(keys.tolist()):
        by_name[dump, name, desc, family].append((pg_id, at))
    epochs = [0] * len(keys)
    for same in by_name.values():
        for age, (_, at) in enumerate(sorted(same, reverse=True)):
            epochs[at] = -age
    return epochs


def _world(pieces: Sequence[Piece], sets: MemberSets) -> int | None:
    """Return the size of the default group as the dumps state it."""
    sizes = []
    for piece in pieces:
        for group in piece.groups:
            # Gloo's only entry has no name, and is the default group as long as it states ranks.
            default = group.desc.startswith("default") or group.name in ("", "0")
            if default and group.ranks and piece.rank in sets.of(group.ranks).ranks:
                sizes.append(len(group.ranks))
    return max(sizes, default=None)
