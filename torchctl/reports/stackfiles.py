"""Reads stack files, written by `torchctl collect`, `diagnose --save`, torch's tools, or by hand.

How this works. Each file yields its processes. A rank comes from the manifest in the file's folder, from the file's
first line if torchctl wrote it, from the text, or from a name that says it. If files in several folders have the same
ranks but come from different processes, the numbers are local ranks, not global ones. A process without a rank is named
by its host and pid. If a process has several dumps with known times, the newest is kept.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torchctl.errors import TorchctlError
from torchctl.flightrec.table.folder import find_files, rank_by_pattern
from torchctl.manifest import FORMER, MANIFEST, STACKS, Entry, entries_of, headline, taken_at
from torchctl.reports.content import both_ends, whole
from torchctl.reports.leftovers import is_dump_at_all, why_not_read
from torchctl.reports.stacknames import named_host, named_rank, named_time, says_stacks
from torchctl.stacks.processes import Process, read_processes
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks

_LOOKS_LIKE_STACKS = re.compile(
    rb'most recent call first\):|torchctl\.stacks/1|"frames":|^(?:.{0,200}[\s:>\]|])?Process \d{1,10}: ', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class StackFile:
    """One process's stacks in a file, or why there are none.

    Attributes:
        rank: None if unknown.
        entry: the process's manifest entry; None if there is none.
        reason: why there are no stacks, read after the path; "" if there are.
        host, pid, local_rank: from the text and the names; "" and None if unknown.
        taken: when, in a form that sorts; "" if unknown.
        by_name: whether the rank comes only from the file's name.
    """

    path: str
    rank: int | None
    entry: Entry | None
    stacks: Stacks | None
    reason: str = ""
    host: str = ""
    pid: int | None = None
    local_rank: int | None = None
    taken: str = ""
    by_name: bool = False

    @property
    def name(self) -> str:
        """What to call a process without a rank: "node-5 pid 4020", or its file if neither is known."""
        pid = "" if self.pid is None else f"pid {self.pid}"
        said = " ".join(filter(None, (self.host, pid)))
        if not pid:
            file = os.path.basename(self.path)
            said = file if self.host in file else f"{self.host} {file}"
        return said if self.local_rank is None else f"{said} (local rank {self.local_rank})"


@dataclass(slots=True)
class StackFiles:
    """What files and folders hold.

    Attributes:
        found: processes with stacks, and files that should have some but do not; by rank, those without one last.
        notes: what was ignored, and why.
        passed: files that hold no stacks and whose names do not promise any.
    """

    found: list[StackFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def read_stack_files(paths: Sequence[str], reader: StackReader) -> StackFiles:
    """Return the contents of each given file and of each stack file in each given folder.

    Raises:
        TorchctlError: a path does not exist, or a folder holds no stack file.
    """
    read = StackFiles()
    for path in paths:
        if not os.path.lexists(path):
            raise TorchctlError(f"{path} does not exist", hint="check the path")
        if not os.path.isdir(path):
            one = read_stacks_of([path], path, entries_of([path]), reader, claimed=True)
        else:
            dumps, others = find_files([path])
            others += [dump.path for dump in dumps if not dump.claimed or not is_dump_at_all(dump.path)]
            one = read_stacks_of(others, path, entries_of(others), reader)
            torn = {dump.path for dump in dumps if dump.rank is not None}  # irrelevant to a reader of stacks
            reasons = [why_not_read(passed) for passed in one.passed if passed not in torn]
            one.notes += [str(reason) for reason in reasons if reason is not None]
            if not one.found:
                hint = "`torchctl collect` names them traceback_rank_N.txt"
                raise TorchctlError(f"no file of stacks in {path}", hint="; ".join(one.notes[:3]) or hint)
        read.found += one.found
        read.notes += one.notes
        read.passed += one.passed
    return _arranged(read)


def names_of(files: Sequence[StackFile]) -> list[str]:
    """Return each process's name, plus its file if several have that name; "" if it has a rank."""
    count: dict[str, int] = defaultdict(int)
    for one in files:
        count[one.name] += one.rank is None

    def name(one: StackFile) -> str:
        if one.rank is not None:
            return ""
        if count[one.name] == 1:
            return one.name
        return one.path if one.pid is None and not one.host else f"{one.name} in {one.path}"

    return [name(one) for one in files]


def read_stacks_of(
    files: Iterable[str],
    root: str,
    whose: dict[str, Entry],
    reader: StackReader,
    *,
    rank_from: str | None = None,
    claimed: bool = False,
) -> StackFiles:
    """Return the processes in the files that hold stacks.

    Args:
        root: the path that the operator gave; a folder below it may be named after a host.
        whose: each file's entry in its folder's manifest.
        rank_from: the operator's pattern for the rank in a path, which overrides everything else.
        claimed: all files should hold stacks, whatever their names.
    """
    result = StackFiles()
    for path in files:
        name, entry = os.path.basename(path), whose.get(path)
        if name in (MANIFEST, FORMER) or (entry is not None and entry.files.get(STACKS) != name):
            continue
        says = claimed or entry is not None or says_stacks(path)
        if not says and not _looks_like_stacks(path):
            result.passed.append(path)
            continue
        rank = None if rank_from is None else rank_by_pattern(path, re.compile(rank_from))
        read = _read(path, root, entry, reader, rank, result.notes)
        if says or any(one.stacks is not None for one in read):
            result.found += read
        else:
            result.passed.append(path)
    return _arranged(result)


def _read(
    path: str, root: str, entry: Entry | None, reader: StackReader, pattern: int | None, notes: list[str]
) -> list[StackFile]:
    """Return the processes in one file, or one entry without stacks that says why."""
    rank = pattern if pattern is not None else entry.rank if entry is not None else named_rank(path)
    try:
        data = whole(path)
        about = headline(data)
        if entry is not None or about is not None:
            stacks = reader.read(data)
            return [_ours(StackFile(path, rank, entry, stacks, taken=taken_at(data)), about or {}, pattern)]
        processes = read_processes(data, reader)
    except OSError as error:
        return [StackFile(path, rank, entry, None, f"cannot be read: {error.strerror or error}")]
    except ValueError as error:
        return [StackFile(path, rank, entry, None, f"has no stacks: {error}")]
    kept = [one for one in processes if not one.aside]
    if aside := [one for one in processes if one.aside]:
        notes.append(f"{path}: ignored, since these are not ranks: {_listed(aside)}")
    if not kept:
        return [StackFile(path, None, None, None, f"holds the stacks of {_listed(aside)}, but of no rank")]
    alone = len(kept) == 1
    return [_of_process(path, root, one, rank if alone else None, pattern if alone else None) for one in kept]


def _ours(file: StackFile, about: dict[str, object], pattern: int | None) -> StackFile:
    """Return a file that torchctl wrote, with what its manifest and its first line say."""
    entry = file.entry
    rank, host, pid = about.get("rank"), about.get("host"), about.get("pid")
    if entry is not None:
        rank, host, pid = entry.rank, entry.host, entry.pid
    return replace(
        file,
        rank=pattern
        if pattern is not None
        else rank
        if isinstance(rank, int)
        else file.rank
        if entry is None
        else None,
        host=host if isinstance(host, str) else "",
        pid=pid if isinstance(pid, int) else None,
    )


def _of_process(path: str, root: str, process: Process, named: int | None, pattern: int | None) -> StackFile:
    rank = pattern if pattern is not None else process.rank if process.rank is not None else named
    return StackFile(
        path,
        rank,
        None,
        process.stacks,
        _refusal(process.reason) if process.stacks is None else "",
        process.label or named_host(path, root, process.pid),
        process.pid,
        process.local_rank,
        named_time(path),
        rank is not None and pattern is None and process.rank is None,
    )


def _refusal(reason: str) -> str:
    """Return what py-spy or torch's debug server says instead of stacks."""
    needs = ": py-spy needs to be root, or CAP_SYS_PTRACE in a container" if "ermission" in reason else ""
    return f"says {reason!r}{needs}"


def _listed(processes: Sequence[Process]) -> str:
    """Return "a launcher (pid 7), 3 workers ...": what each is, with pids if there are few."""
    parts: dict[str, list[Process]] = defaultdict(list)
    for one in processes:
        parts[one.aside].append(one)
    return ", ".join(
        f"{words} (pid {', '.join(str(one.pid) for one in same[:8])}{', ...' if len(same) > 8 else ''})"
        if all(one.pid is not None for one in same)
        else f"{words} ({len(same)})"
        for words, same in parts.items()
    )


def _arranged(files: StackFiles) -> StackFiles:
    """Return the files by rank, without ranks that are only local, and with only each process's newest dump."""
    found = _newest(_without_local_ranks(files.found), files.notes)
    found.sort(key=lambda one: (one.rank is None, one.rank or 0, one.path, one.host, one.pid or 0))
    files.found = found
    return files


def _without_local_ranks(found: list[StackFile]) -> list[StackFile]:
    """Drop the ranks in file names if several folders use the same ones for different processes: they are local."""
    by_rank: dict[int, list[StackFile]] = defaultdict(list)
    for one in found:
        if one.by_name and one.rank is not None and one.pid is not None:
            by_rank[one.rank].append(one)
    contested: set[str] = set()
    for same in by_rank.values():
        folders = {os.path.dirname(one.path) for one in same}
        if len(folders) > 1 and len({one.pid for one in same}) > 1:
            contested |= folders
    return [
        replace(one, rank=None, local_rank=one.rank, by_name=False, host=one.host or os.path.basename(folder))
        if one.by_name and (folder := os.path.dirname(one.path)) in contested
        else one
        for one in found
    ]


def _newest(found: list[StackFile], notes: list[str]) -> list[StackFile]:
    """Drop older dumps of a process if all of its dumps say when they were taken."""
    same: dict[tuple[object, ...], list[StackFile]] = defaultdict(list)
    for number, one in enumerate(found):
        if one.rank is not None:
            same["rank", one.rank].append(one)
        elif one.host and one.pid is not None:
            same["pid", one.host, one.pid].append(one)
        else:
            same["file", number].append(one)
    kept = []
    older: dict[tuple[str, str], list[StackFile]] = defaultdict(list)
    for dumps in same.values():
        dumps.sort(key=lambda one: (one.stacks is not None, one.taken))
        if len(dumps) == 1 or not all(one.taken for one in dumps) or dumps[-1].entry is not None:
            kept += dumps
            continue
        kept.append(dumps[-1])
        for one in dumps[:-1]:
            older[one.path, dumps[-1].path].append(one)
    for (old, new), dumps in older.items():
        ranks = {one.rank for one in dumps}
        whose = f"rank {dumps[0].rank}: " if len(ranks) == 1 and dumps[0].rank is not None else ""
        notes.append(f"{whose}the stacks in {old} are ignored in favor of those in {new}")
    return kept


def _looks_like_stacks(path: str) -> bool:
    """Whether a file seems to hold stacks although its name does not say so; checks only both ends of a long file."""
    data = both_ends(path)
    return b"\0" not in data[:1024] and _LOOKS_LIKE_STACKS.search(data) is not None
