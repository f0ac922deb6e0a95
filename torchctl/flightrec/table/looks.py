"""Several dumps of one rank: which one counts, and whether they make two looks at the whole job.

How this works. A second set of dumps shows which ranks have moved since the first, if every rank is in both and the
times of the files are apart. A set whose files were written one right after the other, in order, may be a copy.
A rank that has changed must still be moving in the second set: hours may lie between the two, and it may have got stuck
in them. Otherwise the second set alone counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchctl.flightrec.table.copies import FEW, close, copied_in_order

if TYPE_CHECKING:
    from torchctl.flightrec.table.pieces import Piece

_APART_NS = 1_000_000_000  # what a live diagnosis waits between its two looks
_MOVING_NS = 1_000_000_000  # a rank whose newest event is younger than this when dumped is moving
Key = tuple[int, str]  # rank, recorder


def one_per_rank(pieces: Sequence[Piece]) -> tuple[list[Piece], list[str], frozenset[int] | None]:
    """Return one piece per rank and recorder, notes, and the ranks that moved since a first set of dumps.

    The newer of two dumps counts. If they show the same, the fuller one does, or else the earlier file: copies are
    later. Without two complete sets, None stands for the ranks that moved.
    """
    by_key: dict[Key, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_key[piece.rank, _recorder(piece)].append(piece)
    moved = _moved(by_key)
    best, notes = [], []
    if moved is not None:
        notes.append("each rank has two dumps: the later one counts, and the earlier one shows whether the rank moved")
    for (rank, _), same in by_key.items():
        kept = max(same, key=_moment if moved is not None else _worth)
        best.append(kept)
        for piece in same if moved is None else ():
            if piece is not kept:
                notes.append(f"rank {rank}: {piece.raw.source} is ignored in favor of {kept.raw.source}")
    filled = {piece.rank for piece in best if len(piece)}
    best = [piece for piece in best if len(piece) or piece.rank not in filled]
    return sorted(best, key=lambda piece: (piece.rank, piece.raw.source)), notes, moved


def _recorder(piece: Piece) -> str:
    """Return which recorder a dump is from: NCCL and its relatives have one, gloo and others another."""
    for text in piece.texts:
        backend, colon, _ = text.partition(":")
        if colon and backend.isalnum():
            return "nccl" if backend.startswith("nccl") else backend
    return ""


def _shown(piece: Piece) -> tuple[int, int, int]:
    """Return a key that is greater for the newer of two dumps: a thread that has run ahead may launch nothing new."""
    if not len(piece):
        return -1, 0, 0
    return int(piece.columns["created_ns"].max()), piece.ended, max(_newest_ns(piece), _latest_ns(piece, "started_ns"))


def _worth(piece: Piece) -> tuple[int, ...]:
    return *_shown(piece), len(piece), len(piece.frames), -(piece.raw.written_ns or 0)


def _moment(piece: Piece) -> tuple[int, ...]:
    return *_shown(piece), piece.raw.written_ns or 0


def _moved(by_key: dict[Key, list[Piece]]) -> frozenset[int] | None:
    """Return the ranks that moved between the last two sets of dumps; None if they are not two looks at the job."""
    if not by_key or any(len(same) < 2 for same in by_key.values()):
        return None
    pairs = [sorted(same, key=_moment)[-2:] for same in by_key.values()]
    if not all(_written_apart(first, second) for first, second in pairs):
        return None
    if _copied([first for first, _ in pairs]) or _copied([second for _, second in pairs]):
        return None
    changed = [(first, second) for first, second in pairs if _progress(first) != _progress(second)]
    # Who changed long before the second dump, or has been in one operation all along, may be stuck by now.
    if not all(_moves(second) and not _open(first) & _open(second) for first, second in changed):
        return None
    return frozenset(second.rank for _, second in changed)


def _progress(piece: Piece) -> tuple[object, ...]:
    """Return what changes when a rank launches or finishes an operation."""
    return _shown(piece)[:2], tuple((one.pg_id, one.last_enqueued) for one in piece.reported)


def _moves(piece: Piece) -> bool:
    """Whether a dump was written just after something had happened on its rank."""
    age_ns = (piece.raw.written_ns or 0) - _newest_ns(piece) if len(piece) else _MOVING_NS
    return -_MOVING_NS < age_ns < _MOVING_NS


def _open(piece: Piece) -> set[tuple[int, ...]]:
    """Return the operations that a rank has open, members of batches among them: these never say that they ended."""
    names = ("pg_id", "collective_seq_id", "p2p_seq_id", "created_ns")
    return set(zip(*(piece.columns[name][~piece.finished].tolist() for name in names), strict=True))


def _newest_ns(piece: Piece) -> int:
    return max(_latest_ns(piece, "created_ns"), _latest_ns(piece, "completed_ns"))


def _latest_ns(piece: Piece, column: str) -> int:
    return int(piece.columns[column].max())


def _copied(pieces: Sequence[Piece]) -> bool:
    """Whether a set may be a copy by its files' times; of a few files, order says nothing."""
    files = [(piece.rank, piece.raw.source, piece.raw.written_ns or 0) for piece in pieces]
    return copied_in_order(files) or (len(files) < FEW and close(files))


def _written_apart(first: Piece, second: Piece) -> bool:
    """Whether the files of two dumps of a rank show that they were taken at different moments."""
    before, after = first.raw.written_ns, second.raw.written_ns
    return before is not None and after is not None and after - before >= _APART_NS
