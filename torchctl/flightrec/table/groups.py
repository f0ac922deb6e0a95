"""Which local groups of many ranks are one process group, and who its members are.

How this works. Each rank has its own number for a group, and a name that need not be unique: split groups share names,
and a second init_process_group starts over with the same ones. So a group is its name, its backend and its members. If
one rank has several groups of one name, the first is matched with the first if all rings are whole, or else the newest
with the newest. If a name means several sets that a rank is in, what the rank does under that name is not matched at
all. If a dump does not state the members (gloo after new_group), they are the ranks seen in it, or all ranks for the
default group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.pieces import Piece
from torchctl.flightrec.table.trace import NO_RANK, Group

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Ints, SmallInts


def join_groups(pieces: Sequence[Piece], keys: Ints, texts: Sequence[str], families: Sequence[str]) -> Joined:
    """Return the job-wide number of each local group, and the groups.

    Args:
        pieces: the dumps.
        keys: (dump, pg_id, name, description, family) of each local group, [local groups, 5]; the last three are
            numbers in `texts` and `families`.
    """
    known_sets = MemberSets()
    stated = [_stated(piece, known_sets) for piece in pieces]
    possible = _possible(stated)
    epochs = _epochs(keys, pieces, possible, texts)
    world = _world(pieces, known_sets)
    groups: list[Group] = []
    numbers: dict[tuple[str, str, int, int], int] = {}
    seen: list[set[int]] = []
    number = np.zeros(len(keys), np.int32)
    several: dict[int, str] = {}
    for at, (dump, _, name_at, desc_at, family) in enumerate(keys.tolist()):
        piece, name, desc = pieces[dump], texts[name_at], texts[desc_at]
        sets = possible.get((name, piece.rank), ())
        members = sets[0] if len(sets) == 1 and epochs[at] == 0 else None
        key = (name, families[family], id(members), epochs[at])
        if len(sets) > 1:
            # The rank's own dump states the members of the group that was used first, which may be another one.
            key = (name, families[family], -1 - at, epochs[at])
            several[at] = f"rank {piece.rank} uses several groups named {name}, and they cannot be distinguished"
        if key not in numbers:
            numbers[key] = len(groups)
            ordered = members.ordered if members is not None else ()
            groups.append(Group(name, desc, families[family], ordered, members is not None, None, epochs[at]))
            seen.append(set())
        number[at] = numbers[key]
        if piece.rank != NO_RANK:
            seen[numbers[key]].add(piece.rank)
    # The default group has all ranks, including those that a gap in the dumps' ranks shows.
    everybody = set(range(max([world or 0, *(piece.rank + 1 for piece in pieces)])))
    for group, in_it in zip(groups, seen, strict=True):
        if not group.known:
            group.members = tuple(sorted(in_it | (everybody if group.default else set())))
    return Joined(number, groups, world, several)


@dataclass(frozen=True, slots=True)
class Joined:
    """The process groups of a job.

    Attributes:
        number: of each local group, its place in `groups`.
        world: the size of the default group as the dumps state it.
        several: local groups that may be any of several of their name, with a sentence about each.
    """

    number: SmallInts
    groups: list[Group]
    world: int | None
    several: dict[int, str]


@dataclass(frozen=True, slots=True)
class Members:
    """One set of global ranks, in order and for looking up."""

    ordered: tuple[int, ...]
    ranks: frozenset[int]


class MemberSets:
    """Each set of ranks once: a thousand dumps state the same thousand ranks, so sets are compared by `id`."""

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


def _possible(stated: Sequence[dict[str, Members]]) -> dict[tuple[str, int], list[Members]]:
    """Return the sets that a name may mean to a rank: other members' dumps show them if its own leaves them out."""
    named: dict[str, dict[int, Members]] = defaultdict(dict)
    for table in stated:
        for name, found in table.items():
            named[name][id(found)] = found
    possible: dict[tuple[str, int], list[Members]] = defaultdict(list)
    for name, sets in named.items():
        for members in sets.values():
            for rank in members.ordered:
                possible[name, rank].append(members)
    return possible


def _stated(piece: Piece, sets: MemberSets) -> dict[str, Members]:
    """Return the members of each group that a dump states and its own rank is in."""
    found: dict[str, Members] = {}
    for group in piece.groups:
        if group.name and group.ranks and group.name not in found:
            members = sets.of(group.ranks)
            if piece.rank in members.ranks:
                found[group.name] = members
    return found


def _epochs(
    keys: Ints, pieces: Sequence[Piece], possible: dict[tuple[str, int], list[Members]], texts: Sequence[str]
) -> list[int]:
    """Return, for each local group, 0 for the newest of its name, -1 for the one before, and so on.

    A rank that has not made the newest one yet has none of number 0: whole rings show that, if its name means the
    same members to all; otherwise the newest of every rank counts as the same.
    """
    by_name: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for at, (dump, pg_id, name, desc, family) in enumerate(keys.tolist()):
        by_name[dump, name, desc, family].append((pg_id, at))
    most: dict[tuple[int, ...], int] = defaultdict(int)
    unclear: set[tuple[int, ...]] = set()
    meant: dict[tuple[int, ...], Members] = {}
    for (dump, *name), same in by_name.items():
        group, piece = tuple(name), pieces[dump]
        sets = possible.get((texts[group[0]], piece.rank), [])
        most[group] = max(most[group], len(same))
        if piece.wrapped or len(sets) != 1 or meant.setdefault(group, sets[0]) is not sets[0]:
            unclear.add(group)
    epochs = [0] * len(keys)
    for (_, *name), same in by_name.items():
        newest = 0 if tuple(name) in unclear else len(same) - most[tuple(name)]
        for age, (_, at) in enumerate(sorted(same, reverse=True)):
            epochs[at] = newest - age
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
