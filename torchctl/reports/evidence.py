"""Evidence in files: saved by a live diagnosis, and read from dumps, stacks in any format, and manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from torchctl.diagnosis.evidence import Computing, Degraded, Evidence, Place, Process, Unread, cannot_answer, no_stacks
from torchctl.errors import TorchctlError
from torchctl.flightrec.table.folder import Found, find_files
from torchctl.flightrec.table.loading import load_files
from torchctl.flightrec.table.restarted import former_files
from torchctl.flightrec.table.trace import Trace
from torchctl.logs.whose import tree_of
from torchctl.manifest import (
    FORMER,
    GENERIC_TRACE,
    INFO,
    MANIFEST,
    STACKS,
    TRACE,
    Entry,
    FolderWriter,
    Manifest,
    entries_of,
    read_manifest,
)
from torchctl.process.lastword import is_named_so
from torchctl.reports.lastwords import copy_to, take_files
from torchctl.reports.leftovers import is_dump_at_all, is_log, may_be_log, why_not_read
from torchctl.reports.reading import STDIN, read_logs
from torchctl.reports.stackfiles import StackFile, names_of, read_stacks_of
from torchctl.stacks.reader import StackReader


def make_folder(folder: str) -> None:
    """Create the folder for `save_evidence`, or accept an empty one: another job's files would count as evidence.

    Raises:
        TorchctlError: the folder is not empty, or cannot be created.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        occupied = bool(os.listdir(folder))
    except OSError as error:
        raise TorchctlError(f"cannot create {folder}: {error.strerror}", hint="choose another folder") from error
    if occupied:
        raise TorchctlError(f"{folder} is not empty", hint="give --save a new folder")


def save_evidence(evidence: Evidence, folder: str) -> None:
    """Save live workers' answers to a folder from `make_folder`; reading them back leads to the same verdict.

    Raises:
        TorchctlError: a file cannot be written.
    """
    writer = FolderWriter(folder)
    copy_to(folder, [one.source for one in evidence.deaths])
    for kept in evidence.kept:
        for part, answer in kept.answers.items():
            writer.write(kept.entry, part, answer)
    writer.finish(Manifest([kept.entry for kept in evidence.kept], one_moment=True))


def read_evidence(
    paths: Iterable[str | os.PathLike[str]], *, rank_from: str | None = None, jobs: int | None = None
) -> Evidence:
    """Return the evidence about a job in the files under `paths`.

    Args:
        paths: folders, or single files; "-" is standard input, a log.
        rank_from: regular expression for the rank in a path; see `flightrec.load`.
        jobs: how many processes decode dumps in parallel.

    Raises:
        DumpError: a path does not exist, or the pattern is invalid.
        TorchctlError: in a folder of `torchctl collect`, several jobs have the same rank.
    """
    named = [os.fspath(path) for path in paths]
    from_stdin = STDIN in named
    found, others = find_files(path for path in named if path != STDIN)
    words = [path for path in others if is_named_so(path)]
    others = [path for path in others if path not in words]
    everything = [*others, *(one.path for one in found)]
    manifests = [path for path in everything if os.path.basename(path) in (MANIFEST, FORMER)]
    former, notes = former_files(everything)
    aside = former.union(manifests)
    dumps: list[Found] = []
    texts = [path for path in others if path not in aside]
    for one in found:
        if one.path in aside:
            continue
        text = one.path.lower().endswith(".txt")
        if text or not one.claimed:
            texts.append(one.path)
        if not text:
            dumps.append(one)
    trace = load_files(dumps, rank_from=rank_from, jobs=jobs)
    others_after_all = _take_no_dumps(trace)
    texts += others_after_all
    files = read_stacks_of(texts, _root(everything), entries_of(everything), StackReader(), rank_from=rank_from)
    notes += files.notes
    trace.notes[:0] = notes
    evidence = Evidence(trace)
    _add_stacks(evidence, files.found)
    loaded = {dump.source for dump in trace.dumps}
    candidates = {one.path for one in files.found if one.entry is None and is_log(one.path)}
    candidates |= {path for path in files.passed if may_be_log(path)} - loaded
    evidence.logs, logs, torn = read_logs([*sorted(candidates), *[STDIN] * from_stdin], _root(everything))
    trace.notes += evidence.logs.notes
    said = {log.file.source for log in logs if log.says_anything}
    # A rank's silent log is evidence too, if other logs say what happened.
    silent = {
        log.file.source for log in logs if said and (log.file.rank is not None or log.ranks or tree_of(log.file.source))
    }
    left = [path for path in files.passed if path not in loaded | said | silent | {one.source for one in torn}]
    unread = [why_not_read(path, others_after_all.get(path)) for path in left]
    evidence.unread += [*torn, *(one for one in unread if one is not None)]
    for folder in sorted({os.path.dirname(path) for path in manifests}):
        _take_manifest(evidence, folder)
    take_files(evidence, words)
    return evidence


def _take_no_dumps(trace: Trace) -> dict[str, int | None]:
    """Remove files that are not dumps at all from the failures, unless a rank is missing because of one."""
    none = {one.source: one.rank for one in trace.bad if not is_dump_at_all(one.source)}
    aside = {source: rank for source, rank in none.items() if rank is None or rank in trace.ranks}
    trace.bad[:] = [one for one in trace.bad if one.source not in aside]
    return aside


def _add_stacks(evidence: Evidence, files: Sequence[StackFile]) -> None:
    """Add the stacks in files to the ranks (the first file per rank wins) and to the processes without a rank."""
    first: dict[int, StackFile] = {}
    for file, name in zip(files, names_of(files), strict=True):
        if file.stacks is None:
            evidence.unread.append(Unread(file.path, file.rank, file.reason))
        elif file.rank is None:
            evidence.processes.append(Process(name, file.stacks, file.host or None, file.pid))
        elif (known := first.setdefault(file.rank, file)) is file:
            evidence.stacks[file.rank] = file.stacks
            if file.pid is not None:
                evidence.places[file.rank] = Place(file.host or None, file.pid)
        else:
            evidence.trace.notes.append(
                f"rank {file.rank}: the stacks in {file.path} are ignored in favor of those in {known.path}"
            )


def _root(files: Sequence[str]) -> str:
    """Return the deepest folder that contains all files."""
    try:
        return os.path.commonpath([os.path.dirname(file) for file in files])
    except ValueError:  # no files, or a mix of relative and absolute paths
        return ""


def _take_manifest(evidence: Evidence, folder: str) -> None:
    """Add to the evidence what a folder's manifest says about the workers."""
    try:
        manifest = read_manifest(folder)
    except TorchctlError:
        return  # `former_files` already did
    if manifest is None:
        return
    evidence.world_size = max(evidence.world_size or 0, manifest.world_size or 0) or None
    entries = manifest.present()
    for rank, entry in entries.items():
        _take_entry(evidence, rank, entry)
    if any(entry.moved is not None for entry in entries.values()):
        evidence.moved = (evidence.moved or frozenset()) | {rank for rank, entry in entries.items() if entry.moved}
    nothing = {rank: entry for rank, entry in entries.items() if rank in evidence.failed}
    evidence.silent |= {rank for rank, entry in nothing.items() if entry.silent}
    evidence.left |= {rank for rank, entry in nothing.items() if entry.left}
    evidence.live = True


def _take_entry(evidence: Evidence, rank: int, entry: Entry) -> None:
    """Add what a manifest says about a rank's process."""
    if entry.still:
        evidence.still |= {rank}
    if entry.cpu_share is not None:
        evidence.computing[rank] = Computing(entry.cpu_share, entry.goes_on)
    if entry.files or entry.pid is not None:
        evidence.places[rank] = Place(entry.host, entry.pid)
    why = next((entry.failures[part] for part in (TRACE, STACKS, INFO) if part in entry.failures), "")
    if rank in evidence.trace.ranks:
        pass  # it did answer for itself, whatever it did later
    elif entry.degraded is not None and not entry.silent:
        stacks = evidence.stacks.pop(rank, None)
        evidence.degraded[rank] = Degraded(entry.degraded, entry.since, stacks)
        evidence.failed[rank] = cannot_answer(entry.degraded)
        return
    elif rank in evidence.stacks:
        if why:
            evidence.no_dump[rank] = why
    elif why and not entry.files.keys() & {TRACE, GENERIC_TRACE, STACKS}:
        evidence.failed[rank] = why
        return
    if STACKS in entry.failures:
        evidence.unread.append(no_stacks(entry.endpoint, rank, entry.failures[STACKS]))
