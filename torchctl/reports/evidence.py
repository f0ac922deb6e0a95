"""Evidence in files: written by a live diagnosis, and read from dumps, stacks of any form, and manifests."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable

from torchctl.diagnosis.evidence import Evidence, Place, Unread, no_stacks
from torchctl.errors import DumpError, TorchctlError
from torchctl.flightrec.decoding.decode import rank_from_name, read_file
from torchctl.flightrec.table.folder import Found, find_files, rank_by_pattern
from torchctl.flightrec.table.loading import load_files
from torchctl.flightrec.table.restarted import former_files
from torchctl.manifest import (
    FORMER,
    MANIFEST,
    STACKS,
    TRACE,
    Entry,
    FolderWriter,
    Manifest,
    entries_of,
    read_manifest,
    taken_at,
)
from torchctl.reports.stackfiles import StackFile, is_stack_file, read_stack_file
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks

_LAST_NUMBER = re.compile(r"(\d{1,6})(?:\.\w+)?\Z")
_LOOKS_LIKE_STACKS = (b"most recent call first", b"torchctl.stacks/1", b'"frames"', b"Process ")


def make_folder(folder: str) -> None:
    """Make the folder for `save_evidence`, or take an empty one: old files of another job would be evidence too.

    Raises:
        TorchctlError: it holds something, or cannot be made.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        occupied = bool(os.listdir(folder))
    except OSError as error:
        raise TorchctlError(f"cannot create {folder}: {error.strerror}", hint="choose another folder") from error
    if occupied:
        raise TorchctlError(f"{folder} is not empty", hint="give --save a new folder")


def save_evidence(evidence: Evidence, folder: str) -> None:
    """Write what live workers gave into a folder that `make_folder` has made; `read_evidence` gives the same verdict.

    Raises:
        TorchctlError: a file cannot be written.
    """
    writer = FolderWriter(folder)
    for kept in evidence.kept:
        for part, answer in kept.answers.items():
            writer.write(kept.entry, part, answer)
    writer.finish(Manifest([kept.entry for kept in evidence.kept], one_moment=True))


def read_evidence(
    paths: Iterable[str | os.PathLike[str]], *, rank_from: str | None = None, jobs: int | None = None
) -> Evidence:
    """Return the evidence about a job in the files under `paths`.

    Args:
        paths: folders, or single files.
        rank_from: regular expression for the rank in a path; see `flightrec.load`.
        jobs: how many processes decode dumps at once.

    Raises:
        DumpError: a path does not exist, or the pattern is none.
        TorchctlError: a folder of `torchctl collect` holds one rank of several jobs.
    """
    found, others = find_files(paths)
    everything = [*others, *(one.path for one in found)]
    manifests = [path for path in everything if os.path.basename(path) in (MANIFEST, FORMER)]
    former, notes = former_files(everything)
    aside = former.union(manifests)
    dumps: list[Found] = []
    texts = [path for path in others if path not in aside]
    for one in found:
        if one.path in aside:
            continue
        if one.path.lower().endswith(".txt"):
            texts.append(one.path)
        else:
            dumps.append(one)
    stacks, unread = _read_stacks(texts, entries_of(everything), rank_from, notes)
    trace = load_files(dumps, rank_from=rank_from, jobs=jobs)
    trace.notes[:0] = notes
    evidence = Evidence(trace, stacks, unread=unread)
    for folder in sorted({os.path.dirname(path) for path in manifests}):
        _take_manifest(evidence, folder)
    return evidence


def _read_stacks(
    paths: Iterable[str], whose: dict[str, Entry], rank_from: str | None, notes: list[str]
) -> tuple[dict[int, Stacks], list[Unread]]:
    """Return the stacks by rank, and the files that should hold stacks and do not."""
    reader = StackReader()
    by_rank: dict[int, list[StackFile]] = defaultdict(list)
    unread: list[Unread] = []
    for path in paths:
        entry = whose.get(path)
        claimed = is_stack_file(path, entry)
        if not claimed and not _looks_like_stacks(path):
            continue
        file = read_stack_file(path, entry, reader)
        rank = _rank_of(path, entry, rank_from)
        if file.stacks is None:
            if claimed:
                unread.append(Unread(path, rank, file.reason))
        elif rank is None:
            unread.append(Unread(path, None, "does not say which rank it is from"))
        else:
            by_rank[rank].append(file)
    return {rank: _newest(rank, files, notes) for rank, files in by_rank.items()}, unread


def _take_manifest(evidence: Evidence, folder: str) -> None:
    """Add to evidence from files what their manifest says of the workers."""
    try:
        manifest = read_manifest(folder)
    except TorchctlError:
        return  # `former_files` has said it
    if manifest is None:
        return
    evidence.world_size = max(evidence.world_size or 0, manifest.world_size or 0) or None
    entries = [(entry.rank, entry) for entry in manifest.entries if entry.rank is not None]
    for rank, entry in entries:
        if entry.files or entry.pid is not None:
            evidence.places[rank] = Place(entry.host, entry.pid)
    if not manifest.one_moment:
        return
    for rank, entry in entries:
        if entry.files or entry.pid is not None:
            if STACKS in entry.failures:
                evidence.unread.append(no_stacks(entry.endpoint, rank, entry.failures[STACKS]))
        elif TRACE in entry.failures:
            evidence.failed[rank] = entry.failures[TRACE]
    if any(entry.moved is not None for _, entry in entries):
        evidence.moved = (evidence.moved or frozenset()) | {rank for rank, entry in entries if entry.moved}
    evidence.silent |= {rank for rank, entry in entries if entry.silent}
    evidence.left |= {rank for rank, entry in entries if entry.left}
    evidence.live = True


def _rank_of(path: str, entry: Entry | None, rank_from: str | None) -> int | None:
    """Return a file's rank: the operator's pattern says it, else the manifest, else the name."""
    if rank_from is not None:
        rank = rank_by_pattern(path, re.compile(rank_from))
        if rank is not None:
            return rank
    if entry is not None:
        return entry.rank
    rank = rank_from_name(path)
    if rank is None and (match := _LAST_NUMBER.search(os.path.basename(path))):
        rank = int(match[1])  # `stacks_3.txt`, `pyspy-3.json`: names that hold one number for one rank
    return rank


def _newest(rank: int, files: list[StackFile], notes: list[str]) -> Stacks:
    """Return the newest stacks of a rank, or the first if one does not say when it was taken; note the others."""
    times = [taken_at(read_file(file.path)) for file in files] if len(files) > 1 else []
    at = times.index(max(times)) if all(times) and times else 0
    for other, file in enumerate(files):
        if other != at:
            notes.append(f"rank {rank}: the stacks in {file.path} are ignored in favor of those in {files[at].path}")
    stacks = files[at].stacks
    assert stacks is not None
    return stacks


def _looks_like_stacks(path: str) -> bool:
    """Whether a file seems to hold stacks although its name does not say so."""
    try:
        data = read_file(path)[:1_000_000]
    except DumpError:
        return False
    return any(mark in data for mark in _LOOKS_LIKE_STACKS)
