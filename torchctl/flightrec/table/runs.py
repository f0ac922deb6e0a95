"""Dumps of several runs of a job in one folder: only those of the newest are evidence.

How this works. A restart may renumber the ranks or change how many there are, and leaves the old files where they were.
All dumps of one run that state the default group state the same ranks. So dumps that state others are of another run,
and the run with the newest entry counts. A dump of the same ranks is of an earlier run if it ends so long before the
others begin that what it waited for would have timed out, where the others' rings still hold their beginning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchctl.flightrec.table.pieces import Piece

_APART_NS = 60_000_000_000  # no two clocks of one job differ as much
_TIMEOUT_MS = 1_800_000  # torch's longest default, of gloo; where a dump does not say


def of_newest_run(pieces: Sequence[Piece]) -> tuple[list[Piece], list[str]]:
    """Return the dumps of the newest run, and a note on each that is ignored."""
    worlds: dict[tuple[int, ...], list[Piece]] = defaultdict(list)
    for piece in pieces:
        ranks = _default_ranks(piece)
        if ranks is not None:
            worlds[ranks].append(piece)
    newest = max(worlds, key=lambda ranks: max(map(_newest_ns, worlds[ranks])), default=None)
    old = {id(piece): len(ranks) for ranks, same in worlds.items() if ranks != newest for piece in same}
    notes = []
    kept = []
    for piece in pieces:
        if id(piece) in old:
            notes.append(f"{piece.raw.source} is ignored: it is from another run, with {old[id(piece)]} ranks")
        else:
            kept.append(piece)
    return _after_beginning(kept, notes), notes


def _after_beginning(pieces: list[Piece], notes: list[str]) -> list[Piece]:
    """Leave out dumps that end before all others, whose rings are whole, begin."""
    filled = [piece for piece in pieces if len(piece)]
    if len(filled) < 3 or any(piece.wrapped for piece in filled):
        return pieces
    begins = sorted(int(piece.columns["created_ns"].min()) for piece in filled)
    begin = begins[len(begins) // 2]  # most ranks are of the newest run
    if begin <= 0:
        return pieces
    kept = []
    for piece in pieces:
        if len(piece) and _newest_ns(piece) + _timeout_ns(piece) < begin - _APART_NS:
            notes.append(f"{piece.raw.source} is ignored: it ends before the others begin, so it is from another run")
        else:
            kept.append(piece)
    return kept


def _default_ranks(piece: Piece) -> tuple[int, ...] | None:
    """Return the ranks of the default group as a dump states them, None if it does not or is not in it."""
    for group in piece.groups:
        if group.desc == "default_pg" and group.ranks and piece.rank in group.ranks:
            return group.ranks
    return None


def _timeout_ns(piece: Piece) -> int:
    longest = int(piece.columns["timeout_ms"].max())
    return (longest if longest > 0 else _TIMEOUT_MS) * 1_000_000


def _newest_ns(piece: Piece) -> int:
    created = piece.columns["created_ns"]
    return int(created.max()) if len(created) else -1
