"""`load`: the flight-recorder dumps of a whole job as one table.

How this works. Files are decoded by as many limited children as there are processors, each driven by a thread
that only waits. What one dump is cut down to is kept, its bytes are not, so that a thousand ranks need no more
memory than their columns.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from torchctl.errors import DumpError
from torchctl.flightrec.decoding.decode import decode_dump
from torchctl.flightrec.decoding.guard import Guard
from torchctl.flightrec.table.folder import Found, find_files, rank_by_pattern
from torchctl.flightrec.table.gather import Failure, RawDump, collector_off, order, read_files
from torchctl.flightrec.table.runs import of_newest_run
from torchctl.manifest import former_files

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Members
    from torchctl.flightrec.table.pieces import Piece, Shared
    from torchctl.flightrec.table.trace import Trace

MAX_JOBS = 16


def load(
    paths: Iterable[str | os.PathLike[str]],
    *,
    rank_from: str | None = None,
    jobs: int | None = None,
    every: bool = False,
) -> Trace:
    """Return the entries of every dump in files and folders as one table.

    A file that cannot be used is in the result's `bad`, and the rest goes on. Needs NumPy.

    Args:
        paths: dump files, or folders of them; folders are searched to a depth of four.
        rank_from: a regular expression whose first group is the rank in a path; it takes the place of our own
            reading of names.
        jobs: how many processes decode at once; the processors by default.
        every: dumps of former runs, a rank's second dump and dumps that tell no rank too, and in `recorded` all that
            the recorders wrote: for looking at, not for comparing ranks.

    Raises:
        DumpError: a path does not exist, or the pattern is none.
        TorchctlError: a folder of `torchctl collect` holds one rank of several jobs.
    """
    found, _ = find_files(paths)
    former, notes = (set(), []) if every else former_files(file.path for file in found)
    kept = [file for file in found if file.path not in former]
    trace = load_files(kept, rank_from=rank_from, jobs=jobs, every=every)
    trace.notes[:0] = notes
    return trace


def load_files(
    files: Sequence[Found], *, rank_from: str | None = None, jobs: int | None = None, every: bool = False
) -> Trace:
    """Return the table of files that `folder.find_files` has found; as `load`."""
    files = _named(files, rank_from)
    claimed = {file.path for file in files if file.claimed}

    def read() -> Iterator[RawDump | Failure]:
        for file in files:
            for raw in read_files([file.path]):
                if isinstance(raw, Failure):
                    yield Failure(raw.source, file.rank, raw.error)
                else:
                    yield RawDump(raw.source, file.rank, raw.data, written_ns=raw.written_ns)

    return load_raw(read(), count=len(files), jobs=jobs, claimed=claimed, every=every)


def load_raw(
    dumps: Iterable[RawDump | Failure],
    *,
    count: int = 1,
    jobs: int | None = None,
    claimed: set[str] | None = None,
    every: bool = False,
) -> Trace:
    """Return the table of dumps whose bytes are here.

    Args:
        dumps: asked for one after the other, so that not all bytes are in memory at once.
        count: how many there are about; no more children are started.
        claimed: sources that are worth a word when they are no dump; None is all.
        every: as in `load`.
    """
    with collector_off():
        pieces, failures = _decode(iter(dumps), max(1, min(jobs or _processors(), MAX_JOBS, count)), every)
        from torchctl.flightrec.table.aborts import spread_aborts
        from torchctl.flightrec.table.assemble import assemble
        from torchctl.flightrec.table.sizes import tell_sizes

        bad = [failure for failure in failures if claimed is None or failure.source in claimed]
        notes: list[str] = []
        if every:
            pieces.sort(key=lambda piece: order(piece.raw))
        else:
            pieces, notes = of_newest_run(pieces)
            pieces, others = _one_per_rank(pieces)
            notes += others
        trace = assemble(pieces, sorted(bad, key=order), notes, every=every)
        tell_sizes(trace)
        spread_aborts(trace)
    return trace


def _processors() -> int:
    """Return how many processors this process may use: a container or a scheduler may have given it few of many."""
    return len(os.sched_getaffinity(0))


def _named(files: Sequence[Found], rank_from: str | None) -> list[Found]:
    if rank_from is None:
        return list(files)
    try:
        pattern = re.compile(rank_from)
    except re.error as error:
        raise DumpError(f"--rank-from {rank_from!r} is no regular expression: {error}") from None
    return [Found(file.path, rank_by_pattern(file.path, pattern), file.claimed) for file in files]


def _decode(dumps: Iterator[RawDump | Failure], jobs: int, every: bool) -> tuple[list[Piece], list[Failure]]:
    """Return what of each dump is kept, in the order given, and the failures."""
    pieces: dict[int, Piece] = {}
    failures: list[Failure] = []
    broken: list[BaseException] = []
    shared: Shared = {}
    members: Members = {}
    lock = threading.Lock()
    numbered = enumerate(dumps)

    def work() -> None:
        with Guard() as guard:
            guard.start()
            from torchctl.flightrec.table.pieces import piece_of  # NumPy, 50 ms, while the child starts

            while True:
                with lock:
                    number, raw = next(numbered, (-1, None))
                if raw is None or broken:
                    return
                if isinstance(raw, Failure):
                    failures.append(raw)
                    continue
                try:
                    dump = decode_dump(raw.data, raw.source, guard=guard, whole=every, members=members)
                    if raw.rank is None and not every:
                        raise DumpError(
                            f"{raw.source} does not say which rank it is of",
                            hint="name the rank with --rank-from REGEX, whose first group is the rank in the path",
                        )
                    light = RawDump(raw.source, raw.rank, b"", raw.answered_ns, raw.written_ns)
                    pieces[number] = piece_of(light, dump, shared, every=every)
                except DumpError as error:
                    failures.append(Failure(raw.source, raw.rank, error))

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    return [pieces[number] for number in sorted(pieces)], failures


def _one_per_rank(pieces: Sequence[Piece]) -> tuple[list[Piece], list[str]]:
    """Return the pieces by rank; of two dumps of one recorder on one rank the newer, else the fuller, stays."""
    best: dict[tuple[int, str], Piece] = {}
    notes = []
    for piece in pieces:
        key = (piece.rank, _recorder(piece))
        other = best.get(key)
        if other is None:
            best[key] = piece
            continue
        better, worse = (piece, other) if _worth(piece) > _worth(other) else (other, piece)
        best[key] = better
        notes.append(f"rank {piece.rank}: {worse.raw.source} is left aside for {better.raw.source}")
    filled = {piece.rank for piece in best.values() if len(piece)}
    kept = [piece for piece in best.values() if len(piece) or piece.rank not in filled]
    return sorted(kept, key=lambda piece: (piece.rank, piece.raw.source)), notes


def _recorder(piece: Piece) -> str:
    """Return which recorder a dump is of: gloo and others have one, NCCL and its relatives another."""
    for text in piece.texts:
        backend, colon, _ = text.partition(":")
        if colon and backend.isalnum():
            return "nccl" if backend.startswith("nccl") else backend
    return ""


def _worth(piece: Piece) -> tuple[int, int, int]:
    created = piece.columns["created_ns"]
    return int(created.max()) if len(created) else -1, len(created), len(piece.frames)
