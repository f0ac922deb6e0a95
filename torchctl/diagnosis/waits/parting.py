"""Where the path of one rank diverges from those of the others: a call that only it makes, or leaves out.

How this works. Ranks that run the same program launch the same calls in the same order, each in its own groups: the
pairs of a tensor parallel mesh are sisters. Each rank's launches become a sequence of tokens (what the group is for,
the operation, its sizes and the line of the user's code), and the path is what most of its sisters have at each place.
At a difference, the explanation is what best fits how both go on: one extra call, one skipped call, two calls swapped,
or a different call at that place only, after which the paths meet again, like `if rank == 0` in healthy jobs.

Rings begin at different places, so sequences are aligned at the first operation that all show, of a group of them all.
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

_MAX_RANKS = 48  # ranks whose paths are compared; a majority needs no more
_MAX_ROWS = 400  # of one rank; the newest
_AHEAD = 6  # places that decide which explanation fits
_LEAST_SHARED = 1 / 3  # share of a path that must come before a departure
_AGREED = 0.75  # share of the sisters that must have done the same up to that place
_ALIKE = 0.7  # share of equal launches that makes ranks sisters
Path = Sequence[tuple[int, int]]  # token and row of each launch
How = Literal["extra", "skipped", "swapped", "another"]


@dataclass(frozen=True, slots=True)
class Departure:
    """A place where a rank does not do what its sisters do.

    Attributes:
        how: it makes a call that they do not make there, leaves out one of theirs, makes two in the other order, or
            makes a different call only there and goes on as they do.
        last: one of the two paths ends there, so what follows is unknown.
        row: its own launch at that place.
        others: the launch of one of its sisters there.
        sisters: the ranks that followed the path.
    """

    rank: int
    how: How
    last: bool
    row: int
    others: int
    sisters: tuple[int, ...]


def departures(trace: Trace, windows: Windows, ranks: Iterable[int]) -> dict[int, list[Departure]]:
    """Return where each rank departs from its sisters' path, up to the first place after which nothing agrees."""
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
    """Return where members of a group depart from the others within it, for ranks whose programs differ elsewhere."""
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
    """Return the launches of ranks, aligned."""
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
    """Return a rank's newest launches in order, a batch as its closing row; empty unless it has exactly one dump."""
    dumps = [dump for dump in trace.dumps if dump.rank == rank and dump.rows]
    if len(dumps) != 1:
        return np.zeros(0, np.int64)
    rows = np.arange(dumps[0].first_row, dumps[0].first_row + dumps[0].rows)
    return rows[~trace.member[rows]][-_MAX_ROWS:]


def _from_anchor(trace: Trace, windows: Windows, rows: Mapping[int, Ints]) -> dict[int, Ints]:
    """Return the launches from the first operation that all these ranks show, of a group of them all."""
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
    """Return a number for each row, equal if ranks do the same: in groups for the same purpose, at the same line.

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
    """Return, for each rank, the purpose and the size of the groups that it is a member of."""
    kinds: dict[int, set[tuple[str, int]]] = {rank: set() for rank in ranks}
    for group in trace.groups:
        for rank in kinds.keys() & set(group.members):
            kinds[rank].add((group.desc or group.name, len(group.members)))
    return kinds


def _sisters(rank: int, paths: Mapping[int, Path]) -> dict[int, Path]:
    """Return the paths of the ranks that launch about the same, including the rank's own."""
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
    """Yield where a rank departs from its sisters' path; nothing if too few of them show it."""
    mine = [word for word, _ in paths[rank]]
    others = {one: [word for word, _ in path] for one, path in sisters.items() if one != rank}
    if len(others) < 2:
        return
    path = _common(list(others.values()))
    for at in range(min(len(mine), len(path))):
        if mine[at] == path[at]:
            continue
        if at < len(mine) * least_shared:
            return  # this early, it runs a different program
        how = _explained(mine, path, at)
        shown = [one for one, words in others.items() if len(words) > at]
        followed = tuple(one for one in sorted(shown) if others[one][: at + 1] == path[: at + 1])
        if len(followed) < _AGREED * len(shown):
            return  # the sisters run different programs, as pipeline stages do
        last = at + 1 == len(mine) or at + 1 == len(path)
        yield Departure(rank, how, last, paths[rank][at][1], paths[followed[0]][at][1], followed)
        if how != "another":
            return


def _explained(mine: Sequence[int], path: Sequence[int], at: int) -> How:
    """Return what best explains how two paths go on after a place where they differ."""
    if mine[at : at + 2] == [*reversed(path[at : at + 2])] and len(path) > at + 1:
        return "swapped"
    another = _run(mine, at + 1, path, at + 1)
    extra, skipped = _run(mine, at + 1, path, at), _run(mine, at, path, at + 1)
    if max(extra, skipped) <= another:
        return "another"
    return "extra" if extra >= skipped else "skipped"


def _common(paths: Sequence[Sequence[int]]) -> list[int]:
    """Return what most paths have at each place, up to the first place without a majority of at least two."""
    common = []
    for at in range(max(map(len, paths))):
        (word, count), *_ = Counter(path[at] for path in paths if len(path) > at).most_common(1)
        if count < 2 or count * 2 <= sum(len(path) > at for path in paths):
            break
        common.append(word)
    return common


def _run(mine: Sequence[int], at: int, path: Sequence[int], place: int) -> int:
    """Return how many launches agree from these two places on, at most `_AHEAD`."""
    count = 0
    while count < _AHEAD and at < len(mine) and place < len(path) and mine[at] == path[place]:
        at, place, count = at + 1, place + 1, count + 1
    return count
