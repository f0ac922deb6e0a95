"""Dumps from several runs of a job in one folder: only the newest run counts as evidence.

How this works. A restart may renumber the ranks or change their number, and leaves the old files in place. All dumps
of one run that list the default group's ranks list the same ones. So dumps that list different ranks come from
different runs, and the run with the newest entry counts. A dump with the same ranks is from an earlier run if its
file was written before anything that the others show, or if it finished a collective that another one entered minutes
later. The same holds if it ends so long before the others begin that its own wait would have timed out, provided that
the others' rings are complete from the start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchctl.flightrec.table.operations import operation_of

if TYPE_CHECKING:
    from torchctl.flightrec.table.pieces import Piece

_APART_NS = 60_000_000_000  # no two clocks in one job differ by this much
_CLOCKS_NS = 250_000_000_000  # unsynchronized clocks have been seen two minutes off, in either direction
_TIMEOUT_MS = 1_800_000  # torch's longest default (gloo), used if a dump has none


def of_newest_run(pieces: Sequence[Piece]) -> tuple[list[Piece], list[str]]:
    """Return the dumps of the newest run, and a note about each ignored dump."""
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
    return _after_beginning(_of_one_attempt(kept, notes), notes), notes


def _of_one_attempt(pieces: list[Piece], notes: list[str]) -> list[Piece]:
    """Drop dumps from an earlier attempt of the same ranks, left because the rank died before it wrote a new one."""
    filled = [piece for piece in pieces if len(piece)]
    newest = max(map(_newest_event_ns, filled), default=0)
    older = [piece for piece in filled if _newest_event_ns(piece) + _CLOCKS_NS < newest]
    if not older:
        return pieces
    skipped = {id(piece) for piece in older}
    present = [piece for piece in filled if id(piece) not in skipped]
    former = {id(piece) for piece in older if _written_before(piece, present) or _contradicts(piece, present)}
    for piece in older:
        if id(piece) in former:
            notes.append(
                f"{piece.raw.source} is ignored: it is from an earlier run, which ended before the others began"
            )
    return [piece for piece in pieces if id(piece) not in former]


def _written_before(piece: Piece, present: Sequence[Piece]) -> bool:
    """Return whether a file was written before the first event in any of the present dumps."""
    written = piece.raw.written_ns
    begin = min(int(one.columns["created_ns"].min()) for one in present)
    return written is not None and 0 < written + _CLOCKS_NS < begin and _newest_event_ns(piece) + _CLOCKS_NS < begin


def _contradicts(piece: Piece, present: Sequence[Piece]) -> bool:
    """Return whether a dump finished what others entered much later: in one run, all enter before any rank finishes."""
    import numpy as np  # already loaded: pieces are made of it

    columns = piece.columns
    symmetric = np.array([operation_of(text).symmetric for text in piece.texts] or [False])
    done = (columns["completed_ns"] > 0) & symmetric[columns["profiling_name"]] & ~columns["p2p"]
    ends: dict[str, tuple[int, int]] = {}
    for number in np.unique(columns["group"][done]).tolist():
        rows = np.flatnonzero(done & (columns["group"] == number))
        last = rows[columns["collective_seq_id"][rows].argmax()]
        ends[piece.texts[number]] = int(columns["collective_seq_id"][last]), int(columns["completed_ns"][last])
    for other in present:
        groups, seqs, created = (other.columns[name] for name in ("group", "collective_seq_id", "created_ns"))
        for number in np.unique(groups).tolist():
            seq, end = ends.get(other.texts[number], (-1, 0))
            if ((groups == number) & (seqs <= seq) & ~other.columns["p2p"] & (created > end + _CLOCKS_NS)).any():
                return True
    return False


def _newest_event_ns(piece: Piece) -> int:
    return max(_newest_ns(piece), int(piece.columns["completed_ns"].max()) if len(piece) else -1)


def _after_beginning(pieces: list[Piece], notes: list[str]) -> list[Piece]:
    """Drop dumps that end before all others begin, if the rings of the others are complete."""
    filled = [piece for piece in pieces if len(piece)]
    if len(filled) < 3 or any(piece.wrapped for piece in filled):
        return pieces
    begins = sorted(int(piece.columns["created_ns"].min()) for piece in filled)
    begin = begins[len(begins) // 2]  # most ranks belong to the newest run
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
    """Return the ranks of the default group in a dump, or None if it has none or they do not include its own rank."""
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
