"""Where the path of one rank parts from those of the others: a call that it alone makes, or leaves out.

How this works. Ranks that run the same program launch the same calls in the same order, each in groups of its own: the
pairs of a tensor parallel mesh are sisters. Each rank's launches become a row of tokens (what the group is for, the
operation, its sizes and the line of the user's code), and what most of its sisters have at a place is the path. At a
difference it is tried what explains how both go on: one call more, one less, two in the other order, or another call at
that place alone, after which the paths meet again, as `if rank == 0` makes it in healthy jobs.

Rings begin at different places, so rows are laid side by side at the first operation of a group of all that all show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from torchctl.diagnosis.waits.entered import Windows
from torchctl.flightrec.table.trace import Trace
from torchctl.flightrec.view.userframe import nearest_frame

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Ints

_MAX_RANKS = 48  # whose paths are compared; a majority needs no more
_MAX_ROWS = 400  # of one rank; the newest
_AHEAD = 6  # places that show which explanation holds
_LEAST_SHARED = 1 / 3  # share of a path before a departure
_AGREED = 0.75  # share of the sisters that have done the same up to that place
_ALIKE = 0.7  # share of equal launches that makes ranks sisters
Path = Sequence[tuple[int, int]]  # token and row of each launch
How = Literal["extra", "skipped", "swapped", "another"]


@dataclass(frozen=True, slots=True)
class Departure:
    """A place at which a rank does not do what its sisters do.

    Attributes:
        how: it makes a call that they do not make there, leaves out one of theirs, makes two in the other order; or
            makes another call there alone, and goes on as they do.
        last: nothing is known of what either does after it.
        row: its own launch at that place.
        others: the launch of one of its sisters there.
        sisters: the ranks that have taken the path.
    """

    rank: int
    how: How
    last: bool
    row: int
    others: int
    sisters: tuple[int, ...]


def departures(trace: Trace, windows: Windows, ranks: Iterable[int]) -> dict[int, list[Departure]]:
    """Return where some ranks do not do what their sisters do, up to the first place after which nothing agrees."""
    wanted = list(dict.fromkeys(ranks))[:_MAX_RANKS]
    others = [rank for rank in trace.ranks if rank not in wanted]
    paths = _paths(trace, windows, [*wanted, *others[: _MAX_RANKS - len(wanted)]])
    kinds = _kinds(trace, paths)
    found = {}
    for rank in wanted:
        if rank in paths:
            alike = {one: path for one, path in paths.items() if kinds[one] == kinds[rank]}
            found[rank] = list(_departures(rank, paths, _sisters(rank, alike)))
    return {rank: places for rank, places in found.items() if places}


def departures_in_group(trace: Trace, windows: Windows, number: int) -> dict[int, list[Departure]]:
    """Return where members of a group do not do in it what the others do: of ranks whose programs differ elsewhere."""
    rows, firsts = {}, []
    for rank in trace.groups[number].members[:_MAX_RANKS]:
        mine, bounds = _rows_of(trace, rank), windows.of(number, rank)
        mine = mine[(trace.group[mine] == number) & ~trace.p2p[mine]]
        if len(mine) and bounds is not None:
            rows[rank] = mine
            firsts.append(max(bounds[0], int(trace.seq[mine[0]])))
    rows = {rank: mine[trace.seq[mine] >= max(firsts)] for rank, mine in rows.items()}
    paths = _worded(trace, rows)
    found = {rank: list(_departures(rank, paths, paths, least_shared=0)) for rank in paths}
    return {rank: places for rank, places in found.items() if places}


def _paths(trace: Trace, windows: Windows, ranks: Sequence[int]) -> dict[int, Path]:
    """Return the launches of ranks, laid side by side."""
    rows = {rank: _rows_of(trace, rank) for rank in ranks}
    rows = {rank: mine for rank, mine in rows.items() if len(mine)}
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    if any(rank in wrapped or len(mine) == _MAX_ROWS for rank, mine in rows.items()):
        rows = _from_anchor(trace, windows, rows)
    return _worded(trace, rows)


def _worded(trace: Trace, rows: Mapping[int, Ints]) -> dict[int, Path]:
    lines = all(trace.stack[mine].any() for mine in rows.values())  # JSON dumps have none
    words = _words(trace, np.concatenate([*rows.values(), np.zeros(0, np.int64)]), lines)
    return {rank: [(words[row], row) for row in mine.tolist()] for rank, mine in rows.items()}


def _rows_of(trace: Trace, rank: int) -> Ints:
    """Return a rank's newest launches in order, a batch as the row that closes it; empty where it has several dumps."""
    dumps = [dump for dump in trace.dumps if dump.rank == rank and dump.rows]
    if len(dumps) != 1:
        return np.zeros(0, np.int64)
    rows = np.arange(dumps[0].first_row, dumps[0].first_row + dumps[0].rows)
    return rows[~trace.member[rows]][-_MAX_ROWS:]


def _from_anchor(trace: Trace, windows: Windows, rows: Mapping[int, Ints]) -> dict[int, Ints]:
    """Return the launches from the first operation of a group of all these ranks that each of them shows."""
    for number, group in enumerate(trace.groups):
        if not set(rows) <= set(group.members):
            continue
        bounds = [windows.of(number, rank) for rank in rows]
        firsts = [bound[0] for bound in bounds if bound is not None]
        if len(firsts) != len(bounds):
            continue
        first, found = max(firsts), {}
        for rank, mine in rows.items():
            here = np.flatnonzero((trace.group[mine] == number) & ~trace.p2p[mine] & (trace.seq[mine] == first))
            if len(here):
                found[rank] = mine[here[0] :]
        return found
    return {}


def _words(trace: Trace, rows: Ints, lines: bool) -> dict[int, int]:
    """Return a number for each row that is equal where ranks do the same: in groups for the same, at the same line.

    Args:
        lines: all dumps have lines of code; else they are not compared.
    """
    numbers: dict[object, int] = {}
    known: dict[tuple[int, ...], int] = {}
    columns = (trace.group[rows], trace.operation[rows], trace.signature[rows], trace.stack[rows])
    found = {}
    for row, *key in zip(rows.tolist(), *(column.tolist() for column in columns), strict=True):
        number = known.get(tuple(key))
        if number is None:
            group, signature = trace.groups[key[0]], trace.signatures[key[2]]
            what = trace.operations[key[1]].name, signature.sizes, signature.dtypes
            frame = nearest_frame(trace.stack_of(row)) if lines else None
            word = (group.desc or group.name, len(group.members), what, frame)
            number = known[tuple(key)] = numbers.setdefault(word, len(numbers))
        found[row] = number
    return found


def _kinds(trace: Trace, ranks: Collection[int]) -> dict[int, set[tuple[str, int]]]:
    """Return, of each rank, what the groups are for that it is a member of, with their sizes."""
    kinds: dict[int, set[tuple[str, int]]] = {rank: set() for rank in ranks}
    for group in trace.groups:
        for rank in kinds.keys() & set(group.members):
            kinds[rank].add((group.desc or group.name, len(group.members)))
    return kinds


def _sisters(rank: int, paths: Mapping[int, Path]) -> dict[int, Path]:
    """Return the paths of the ranks that launch about the same, the rank's own among them."""
    counts = {one: Counter(word for word, _ in path) for one, path in paths.items()}
    mine = counts[rank]
    found = {}
    for one, theirs in counts.items():
        most = max(sum(mine.values()), sum(theirs.values()))
        if sum((mine & theirs).values()) >= _ALIKE * min(most, sum(theirs.values()) + _AHEAD):
            found[one] = paths[one]
    return found


def _departures(
    rank: int, paths: Mapping[int, Path], sisters: Mapping[int, Path], least_shared: float = _LEAST_SHARED
) -> Iterator[Departure]:
    """Yield where a rank does not do what its sisters do; nothing where too few of them show what that is."""
    mine = [word for word, _ in paths[rank]]
    others = {one: [word for word, _ in path] for one, path in sisters.items() if one != rank}
    if len(others) < 2:
        return
    path = _common(list(others.values()))
    for at in range(min(len(mine), len(path))):
        if mine[at] == path[at]:
            continue
        if at < len(mine) * least_shared:
            return  # so early, it is a program of its own
        how = _explained(mine, path, at)
        shown = [one for one, words in others.items() if len(words) > at]
        followed = tuple(one for one in sorted(shown) if others[one][: at + 1] == path[: at + 1])
        if len(followed) < _AGREED * len(shown):
            return  # those that run different programs, as stages of a pipeline do
        last = at + 1 == len(mine) or at + 1 == len(path)
        yield Departure(rank, how, last, paths[rank][at][1], paths[followed[0]][at][1], followed)
        if how != "another":
            return


def _explained(mine: Sequence[int], path: Sequence[int], at: int) -> How:
    """Return what explains best how two paths go on after a place at which they differ."""
    if mine[at : at + 2] == [*reversed(path[at : at + 2])] and len(path) > at + 1:
        return "swapped"
    another = _run(mine, at + 1, path, at + 1)
    extra, skipped = _run(mine, at + 1, path, at), _run(mine, at, path, at + 1)
    if max(extra, skipped) <= another:
        return "another"
    return "extra" if extra >= skipped else "skipped"


def _common(paths: Sequence[Sequence[int]]) -> list[int]:
    """Return what most of some paths have at each place, as far as most agree and at least two show it."""
    common = []
    for at in range(max(map(len, paths))):
        (word, count), *_ = Counter(path[at] for path in paths if len(path) > at).most_common(1)
        if count < 2 or count * 2 <= sum(len(path) > at for path in paths):
            break
        common.append(word)
    return common


def _run(mine: Sequence[int], at: int, path: Sequence[int], place: int) -> int:
    """Return how many launches agree from two places on, of those that could show it."""
    count = 0
    while count < _AHEAD and at < len(mine) and place < len(path) and mine[at] == path[place]:
        at, place, count = at + 1, place + 1, count + 1
    return count
