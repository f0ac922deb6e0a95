"""Which files in a folder come from a process that has been replaced, and so say nothing about the present."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

from torchctl.errors import TorchctlError
from torchctl.manifest import Entry, present_of, read_manifest


def former_files(paths: Iterable[str]) -> tuple[set[str], list[str]]:
    """Return which files beside `paths` belong to a process that was replaced, and a sentence about each process.

    A job that was restarted between two runs of `torchctl collect` leaves two processes for a rank in the folder. The
    current one is the one that started last or, if no start time is known, the one that was found last.

    Raises:
        TorchctlError: a folder holds one rank of several jobs, so that nothing in it can be compared.
    """
    former: set[str] = set()
    notes: list[str] = []
    for folder in sorted({os.path.dirname(path) for path in paths}):
        try:
            manifest = read_manifest(folder)
        except TorchctlError as error:
            notes.append(error.message)
            continue
        by_rank: dict[int, list[Entry]] = defaultdict(list)
        for entry in manifest.entries if manifest else ():
            if entry.rank is not None:
                by_rank[entry.rank].append(entry)
        for rank, entries in by_rank.items():
            for entry, note in _replaced(folder, rank, entries):
                former.update(os.path.join(folder, name) for name in entry.files.values())
                notes.append(note)
    return former, notes


def _replaced(folder: str, rank: int, entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    """Yield each process of a rank that has been replaced, with a sentence about it."""
    kept = [entry for entry in entries if entry.files]
    jobs = sorted({entry.job_id for entry in kept if entry.job_id is not None})
    if len(jobs) > 1:
        raise TorchctlError(
            f"{folder} holds rank {rank} of several jobs: {', '.join(jobs)}",
            hint="collect each job into its own folder with --job, or move one job's files elsewhere",
        )
    if not kept:
        return
    present = present_of(entries)
    for entry in entries:
        if entry is present:
            continue
        if entry.files:
            names = ", ".join(sorted(set(entry.files.values())))
            yield entry, f"rank {rank}: ignored {names}: {_words(present)} has replaced {_words(entry)}"
        elif entry.failures:
            reason = next(iter(entry.failures.values()))
            yield (
                entry,
                f"rank {rank}: {entry.endpoint} {reason}; what is known about the rank comes from {_words(present)}",
            )


def _words(entry: Entry) -> str:
    return f"process {entry.pid}" if entry.pid is not None else f"the process at {entry.endpoint}"
