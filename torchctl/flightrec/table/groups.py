"""Which local groups on different ranks are the same process group, and which ranks are its members.

How this works. Each rank numbers groups by itself, and names need not be unique: split groups share names,
and a second init_process_group reuses them. So a group is identified by its name, backend and members. If
one rank has several groups with the same name, they are matched first to first if all rings are complete, or else
newest to newest. If a name means several member sets that include the rank, its operations under that name are not
matched at all. If a dump does not list the members (gloo after new_group), they are the ranks seen in the group, or
all ranks for the default group.
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
            indices into `texts` and `families`.
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
            # The rank's own dump lists the members of the group that was used first, which may be a different one.
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
    # The default group contains all ranks, including ranks whose dumps are missing.
    everybody = set(range(max([world or 0, *(piece.rank + 1 for piece in pieces)])))
    for group, in_it in zip(groups, seen, strict=True):
        if not group.known:
            group.members = tuple(sorted(in_it | (everybody if group.default else set())))
    return Joined(number, groups, world, several)


@dataclass(frozen=True, slots=True)
class Joined:
    """The process groups of a job.

    Attributes:
        number: each local group's index in `groups`.
        world: the size of the default group according to the dumps.
        several: local groups that could be any of several with the same name, with a sentence about each.
    """

    number: SmallInts
    groups: list[Group]
    world: int | None
    several: dict[int, str]


@dataclass(frozen=True, slots=True)
class Members:
    """One set of global ranks, both sorted and as a set."""

    ordered: tuple[int, ...]
    ranks: frozenset[int]


class MemberSets:
    """Keeps each set of ranks once: a thousand dumps list the same thousand ranks, so sets are compared by `id`."""

    def __init__(self) -> None:
        self._by_object: dict[int, Members] = {}
        self._by_value: dict[tuple[int, ...], Members] = {}

    def of(self, ranks: tuple[int, ...]) -> Members:
        """Return the shared object for a set of ranks; `ranks` must live as long as `self`."""
        found = self._by_object.get(id(ranks))
        if found is None:
            members = frozenset(ranks)
            ordered = tuple(sorted(members))
            found = self._by_object[id(ranks)] = self._by_value.setdefault(ordered, Members(ordered, members))
        return found


def _possible(stated: Sequence[dict[str, Members]]) -> dict[tuple[str, int], list[Members]]:
    """Return the sets that a name may mean to a rank; other members' dumps fill in what its own dump lacks."""
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
    """Return the members of each group that a dump lists and that includes its own rank."""
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
    """Return, for each local group, 0 for the newest with its name, -1 for the one before, and so on.

    A rank that has not created the newest one yet has no number 0. That is only known if all rings are complete and
    the name means the same members on every rank; otherwise the newest on every rank is taken to be the same group.
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
    """Return the size of the default group according to the dumps, or None if they do not have it."""
    sizes = []
    for piece in pieces:
        for group in piece.groups:
            # Gloo's only entry has no name, and is the default group if it lists ranks.
            default = group.desc.startswith("default") or group.name in ("", "0")
            if default and group.ranks and piece.rank in sets.of(group.ranks).ranks:
                sizes.append(len(group.ranks))
    return max(sizes, default=None)
