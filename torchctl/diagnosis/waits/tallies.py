"""Which rank has launched more or fewer operations than its sisters, by the sequence ids of groups alone.

How this works. The ranks of one program use the same kinds of groups, each rank its own: pairs for tensor parallel,
rows of stages. When all of them reach the same operation of one kind, they have launched equally many of every other
kind. The first place where one rank's count differs from the rest is where it diverged. Sequence ids keep counting
when a ring has lost its beginning, and neither names nor lines of code need to be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torchctl.flightrec.table.trace import Trace

_MAX_RANKS = 64  # ranks to compare
_MAX_ROWS = 2000  # of one rank; the newest
_LEAST = 3  # ranks that must agree
_AGREED = 2  # earlier places where all must have agreed
Kind = tuple[str, int, bool]  # what groups are for, their size, whether sends and receives are counted
Place = tuple[Kind, int]  # an operation: its kind and its sequence id


@dataclass(frozen=True, slots=True)
class Odd:
    """One rank that launched more or fewer operations of a kind than its sisters before a given operation.

    Attributes:
        row: its own launch of that operation.
        desc: the purpose of the groups whose count differs.
        count, others: the last sequence id there, of the rank and of its sisters.
        sisters: the ranks that agree.
    """

    rank: int
    row: int
    desc: str
    count: int
    others: int
    sisters: tuple[int, ...]


def odd_one(trace: Trace, among: Iterable[int]) -> Odd | None:
    """Return the first rank whose counts differ from its sisters'; None if it is not in `among`, or not alone."""
    wanted = list(among)
    ranks = [*wanted, *(rank for rank in trace.ranks if rank not in set(wanted))][:_MAX_RANKS]
    paths = {rank: path for rank in ranks if (path := _counts(trace, rank))}
    kinds = {rank: frozenset(kind for kind, _ in path) for rank, path in paths.items()}
    best: tuple[int, Odd] | None = None
    for kind_set in {kinds[rank] for rank in wanted if rank in kinds}:
        sisters = [rank for rank in paths if kinds[rank] == kind_set]
        found = _first_apart(paths, sisters, kind_set) if len(sisters) > _LEAST else None
        if found is not None and found.rank in wanted and (best is None or found.row < best[0]):
            best = found.row, found
    return best[1] if best is not None else None


Counts = dict[Place, tuple[int, dict[Kind, int]]]


def _counts(trace: Trace, rank: int) -> Counts:
    """Return, for each operation that a rank shows, its row and the last sequence id of every kind before it."""
    dumps = [dump for dump in trace.dumps if dump.rank == rank and dump.rows]
    if len(dumps) != 1:
        return {}
    last: dict[Kind, int] = {}
    found: Counts = {}
    end = dumps[0].first_row + dumps[0].rows
    for row in range(max(dumps[0].first_row, end - _MAX_ROWS), end):
        group = trace.groups[int(trace.group[row])]
        if trace.member[row] or group.desc in ("", "undefined"):
            continue
        kind = (group.desc, len(group.members), bool(trace.p2p[row]))
        seq = int(trace.seq[row])
        found.setdefault((kind, seq), (row, dict(last)))
        last[kind] = seq
    return found


def _first_apart(paths: dict[int, Counts], sisters: list[int], kinds: frozenset[Kind]) -> Odd | None:
    """Return the one rank whose count differs at the first place where all others agree, as all did before."""
    shared = set.intersection(*(set(paths[rank]) for rank in sisters))
    agreed: Counter[tuple[Kind, Kind]] = Counter()
    for place in sorted(shared, key=lambda one: paths[sisters[0]][one][0]):
        for kind in sorted(one for one in kinds if one[0] != place[0][0]):
            counts = {rank: paths[rank][place][1].get(kind, 0) for rank in sisters}
            usual, most = Counter(counts.values()).most_common(1)[0]
            if most == len(sisters):
                agreed[place[0], kind] += 1
            elif most == len(sisters) - 1 and agreed[place[0], kind] >= _AGREED:
                odd = next(rank for rank, count in counts.items() if count != usual)
                others = tuple(sorted(rank for rank in sisters if rank != odd))
                return Odd(odd, paths[odd][place][0], kind[0], counts[odd], usual, others)
            # Several ranks differ, as pipeline stages do at every other place.
    return None
