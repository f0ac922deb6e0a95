"""`load`: read the flight-recorder dumps of a whole job into one table.

How this works. Each dump is reduced to a piece as soon as it is decoded, so a thousand ranks need only the memory of
their columns. The pieces of the newest run become one table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torchctl.errors import DumpError
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.folder import Found, find_files, rank_by_pattern
from torchctl.flightrec.table.gather import collector_off, decode_each, order, read_files
from torchctl.flightrec.table.looks import one_per_rank
from torchctl.flightrec.table.restarted import former_files
from torchctl.flightrec.table.runs import of_newest_run

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump
    from torchctl.flightrec.table.pieces import Piece, Shared
    from torchctl.flightrec.table.trace import Trace


def load(
    paths: Iterable[str | os.PathLike[str]],
    *,
    rank_from: str | None = None,
    jobs: int | None = None,
    every: bool = False,
) -> Trace:
    """Return the entries of every dump in files and folders as one table.

    A file that cannot be used is listed in the result's `bad`; the others are still read. Needs NumPy.

    Args:
        paths: dump files, or folders of them; folders are searched to a depth of four.
        rank_from: a regular expression whose first group is the rank in a path; it replaces the built-in
            parsing of names.
        jobs: how many processes decode at once; one per processor by default.
        every: also load dumps from earlier runs, a rank's second dump and dumps without a rank, and keep everything
            that the recorders wrote in `recorded`. For viewing, not for comparing ranks.

    Raises:
        DumpError: a path does not exist, or the pattern is invalid.
        TorchctlError: a folder of `torchctl collect` holds one rank of several jobs.
    """
    found, _ = find_files(paths)
    if every:
        return _load_every(_named(found, rank_from), jobs)
    former, notes = former_files(file.path for file in found)
    kept = [file for file in found if file.path not in former]
    trace = load_files(kept, rank_from=rank_from, jobs=jobs)
    trace.notes[:0] = notes
    return trace


def load_files(files: Sequence[Found], *, rank_from: str | None = None, jobs: int | None = None) -> Trace:
    """Return the table of files that `folder.find_files` found; see `load`."""
    files = _named(files, rank_from)
    return load_raw(read_files(files), jobs=jobs, claimed=_claimed(files))


def load_raw(
    dumps: Iterable[RawDump | Failure],
    *,
    jobs: int | None = None,
    claimed: set[str] | None = None,
) -> Trace:
    """Return the table of dumps that are given as bytes.

    Args:
        dumps: consumed one at a time, so that not all bytes are in memory at once.
        claimed: sources to report if they are not dumps; None means all.
    """
    shared: Shared = {}

    def piece(raw: RawDump, dump: Dump) -> Piece:
        from torchctl.flightrec.table.pieces import piece_of

        if raw.rank is None:
            raise DumpError(
                f"{raw.source} does not say which rank it is from",
                hint="use --rank-from REGEX, whose first group is the rank in the path",
            )
        return piece_of(raw, dump, shared)

    with collector_off():
        pieces, failures = decode_each(dumps, piece, jobs=jobs, whole=False, meanwhile=_import_numpy)
        return table_of(pieces, failures, claimed)


def table_of(pieces: Sequence[Piece], failures: Sequence[Failure] = (), claimed: set[str] | None = None) -> Trace:
    """Return the table of decoded dumps: only the newest run, and one dump per rank and recorder; see `load_raw`."""
    present, notes = of_newest_run(pieces)
    one_each, others, moved = one_per_rank(present)
    trace = _table(one_each, failures, claimed, [*notes, *others])
    trace.moved = moved
    if len(present) < len(pieces):
        trace.former = frozenset({piece.rank for piece in pieces} - {piece.rank for piece in present})
    return trace


def _load_every(files: Sequence[Found], jobs: int | None) -> Trace:
    """Return the table of all dumps, with everything that the recorders wrote in `recorded`."""
    from torchctl.flightrec.table.trace import Recorded

    shared: Shared = {}

    def both(raw: RawDump, dump: Dump) -> tuple[Piece, Dump]:
        from torchctl.flightrec.table.pieces import piece_of

        return piece_of(raw, dump, shared), dump

    with collector_off():
        made, failures = decode_each(read_files(files), both, jobs=jobs, meanwhile=_import_numpy)
        made.sort(key=lambda pair: order(pair[0].raw))
        trace = _table([piece for piece, _ in made], failures, _claimed(files), [])
    trace.recorded = Recorded([dump for _, dump in made])
    return trace


def _table(
    pieces: Sequence[Piece], failures: Sequence[Failure], claimed: set[str] | None, notes: Sequence[str]
) -> Trace:
    from torchctl.flightrec.table.aborts import spread_aborts
    from torchctl.flightrec.table.assemble import assemble
    from torchctl.flightrec.table.sizes import tell_sizes

    bad = [failure for failure in failures if claimed is None or failure.source in claimed]
    trace = assemble(pieces, bad, notes)
    tell_sizes(trace)
    spread_aborts(trace)
    return trace


def _import_numpy() -> None:
    """Import the code that makes pieces ahead of time, because NumPy takes 50 ms."""
    import torchctl.flightrec.table.pieces  # noqa: F401


def _claimed(files: Sequence[Found]) -> set[str]:
    return {file.path for file in files if file.claimed}


def _named(files: Sequence[Found], rank_from: str | None) -> list[Found]:
    if rank_from is None:
        return list(files)
    try:
        pattern = re.compile(rank_from)
    except re.error as error:
        raise DumpError(f"--rank-from {rank_from!r} is not a regular expression: {error}") from None
    return [Found(file.path, rank_by_pattern(file.path, pattern), file.claimed) for file in files]
