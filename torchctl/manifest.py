"""File names and manifest of the folder that `torchctl collect` and `diagnose --save` fill and other commands read.

How this works: each part of a worker's answers is a file, named by part and rank. For each worker, `collect.json`
records its files, how its host's clock differs from ours, and what is missing and why. Both the writer and the reader
are here. A folder written by an older `diagnose --save`, which used other names, is converted on reading.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from torchctl.errors import TorchctlError
from torchctl.text import printable

MANIFEST = "collect.json"
SCHEMA = "torchctl.collect/1"
INFO, TRACE, GENERIC_TRACE, STACKS = "info", "nccl_trace", "fr_trace", "traceback"  # parts, as in `Entry.files`
FORMER = "diagnose_info.json"  # beside what an older `torchctl diagnose --save` kept

_ENDINGS = {INFO: ".json", TRACE: "", GENERIC_TRACE: "", STACKS: ".txt"}
_HINT = "choose another folder"
_MAX_BYTES = 1 << 30
_TIME = re.compile(rb'# torchctl \{[^\n]*"time":\s?"(\d{4}-\d\d-\d\dT[0-9:.]{8,15}Z)"')
_FORMER_SCHEMA = "torchctl.diagnose-info/1"
_FORMER_STACKS = re.compile(r"stacks_(\d{1,9})\.txt")
_FORMER_TRACE = re.compile(r"(\w+)_trace_rank_(\d{1,9})\.(?:pickle|json)")


class Answer(NamedTuple):
    """One part of a worker's answers, as the worker sent it.

    Attributes:
        answered_at: seconds since the epoch.
        only: this trace of the generic recorder also answers for NCCL's: the worker has no other.
    """

    body: bytes
    answered_at: float
    only: bool = False


@dataclass(slots=True)
class Entry:
    """What the manifest records about one worker.

    Attributes:
        degraded: why it did not answer for itself and its stacks were read from outside.
        since: when that was first seen, by its host's clock, in seconds since the epoch.
        silent: its process was running, but did not answer in time.
        left: its process had ended and left its socket behind.
        moved: it made progress between the two looks of a diagnosis; None if there was only one look.
        still: its own thread slept at one place from look to look, whatever its other threads did.
        cpu_share: of a core, that its main thread used between the two looks; None if no rank waited for it.
        goes_on: with it, whether its stack went from call to call in several samples.
        files: names within the folder, by part.
        failures: why a part is missing, by part; read after the endpoint.
    """

    endpoint: str
    rank: int | None = None
    pid: int | None = None
    host: str | None = None
    job_id: str | None = None
    world_size: int | None = None
    start_time: float | None = None
    clock_offset_s: float | None = None
    degraded: str | None = None
    since: float | None = None
    silent: bool = False
    left: bool = False
    moved: bool | None = None
    cpu_share: float | None = None
    goes_on: bool = False
    still: bool = False
    files: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Manifest:
    """A folder's workers.

    Attributes:
        not_found: ranks for which no worker was found, by job.
        one_moment: a diagnosis looked at all workers together, twice.
        former: an older `diagnose --save` wrote the folder; nothing may be added to it.
    """

    entries: list[Entry] = field(default_factory=list)
    not_found: Mapping[str | None, list[int]] = field(default_factory=dict)
    one_moment: bool = False
    former: bool = False

    @property
    def world_size(self) -> int | None:
        """The largest world size that a worker reported."""
        return max((entry.world_size or 0 for entry in self.entries), default=0) or None

    def present(self) -> dict[int, Entry]:
        """Return each rank's process: the one that started last, preferring those that left files."""
        by_rank: dict[int, list[Entry]] = {}
        for entry in self.entries:
            if entry.rank is not None:
                by_rank.setdefault(entry.rank, []).append(entry)
        return {rank: present_of(entries) for rank, entries in by_rank.items()}


def present_of(entries: Sequence[Entry]) -> Entry:
    """Return the process that has a rank now: the one that started last, or was found last if no start is known."""
    kept = [entry for entry in entries if entry.files] or entries
    return max(enumerate(kept), key=lambda pair: (pair[1].start_time or 0.0, pair[0]))[1]


class FolderWriter:
    """Writes workers' answers to a folder, each whole or not at all, then the manifest.

    Args:
        known: the workers whose files are already there.
    """

    def __init__(self, folder: str, known: Iterable[Entry] = ()) -> None:
        self.folder = folder
        self._names = {name: entry for entry in known for name in entry.files.values()}

    def write(self, entry: Entry, part: str, answer: Answer) -> None:
        """Write one part of a worker's answers and record its file name in the entry.

        Raises:
            TorchctlError: the file cannot be written.
        """
        from torchctl.files import write_file  # imports tempfile, which readers do not need

        body = answer.body
        if part == STACKS:
            body = _headline(entry, answer.answered_at).encode() + answer.body
        name = self._name(entry, part)
        write_file(os.path.join(self.folder, name), body, hint=_HINT)
        self._names[name] = entry
        entry.files[part] = name
        if answer.only:
            entry.files[GENERIC_TRACE] = name

    def finish(self, manifest: Manifest) -> str:
        """Write the manifest and return its path; raises as `write`."""
        from torchctl.files import write_file

        entries = sorted(manifest.entries, key=lambda entry: (entry.rank is None, entry.rank or 0))
        document = {
            "schema": SCHEMA,
            "time": time.time(),
            "host": os.uname().nodename,
            "one_moment": manifest.one_moment,
            "workers": [{name: getattr(entry, name) for name in Entry.__slots__} for entry in entries],
            "not_found": [{"job_id": job, "ranks": ranks} for job, ranks in manifest.not_found.items()],
        }
        path = os.path.join(self.folder, MANIFEST)
        write_file(path, json.dumps(document, sort_keys=True, indent=2).encode() + b"\n", hint=_HINT)
        return path

    def _name(self, entry: Entry, part: str) -> str:
        """Return a file name; if a second worker claims the same rank, its name gets a number."""
        whose = f"rank_{entry.rank}" if entry.rank is not None else "worker"
        number = 1
        while True:
            twin = "" if number == 1 and entry.rank is not None else f"_twin{number}"
            name = f"{part}_{whose}{twin}{_ENDINGS[part]}"
            if self._names.get(name, entry) is entry:
                return name
            number += 1


def read_manifest(folder: str) -> Manifest | None:
    """Return the manifest of a folder, or None if it has none. Callers share it and must not modify it.

    Raises:
        TorchctlError: `collect.json` exists but is not a manifest.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _former(folder)
    except OSError as error:
        raise TorchctlError(f"{path} cannot be read: {error.strerror}") from error
    return _read(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=4)  # a command reads it several times; for a large job, parsing takes 0.25 s
def _read(path: str, *state: int) -> Manifest:
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        if document["schema"] != SCHEMA:
            raise ValueError
        return Manifest([_entry(worker) for worker in document["workers"]], {}, document.get("one_moment") is True)
    except OSError as error:
        raise TorchctlError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise TorchctlError(f"{path} was not written by `torchctl collect`", hint=_HINT) from None


def entries_of(paths: Iterable[str]) -> dict[str, Entry]:
    """Return each file's entry, from the manifests in the files' folders; unreadable manifests are ignored."""
    wanted = set(paths)
    found: dict[str, Entry] = {}
    for folder in {os.path.dirname(path) for path in wanted}:
        try:
            manifest = read_manifest(folder or ".")
        except TorchctlError:
            continue
        for entry in manifest.entries if manifest else ():
            found.update((os.path.join(folder, name), entry) for name in entry.files.values())
    return {path: entry for path, entry in found.items() if path in wanted}


def taken_at(stacks: bytes) -> str:
    """Return when stacks were taken, in a form that sorts by time, or "" if their first line does not say."""
    match = _TIME.match(stacks[:10_000])
    return match[1].decode() if match else ""


def headline(stacks: bytes) -> dict[str, Any] | None:
    """Return the owner that the first line of a stack file names, or None if torchctl did not write that line."""
    first = stacks[:10_000].partition(b"\n")[0]
    if not first.startswith(b"# torchctl {"):
        return None
    try:
        about = json.loads(first[len(b"# torchctl ") :])
    except ValueError:
        return None
    return about if isinstance(about, dict) else None


def _headline(entry: Entry, answered_at: float) -> str:
    """Return a line that says whose stacks follow; readers of faulthandler's text skip it."""
    from datetime import datetime, timezone

    moment = datetime.fromtimestamp(answered_at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    about = {"rank": entry.rank, "host": entry.host, "pid": entry.pid, "time": moment}
    about["clock_offset_s"] = None if entry.clock_offset_s is None else str(entry.clock_offset_s)
    return f"# torchctl {printable(json.dumps(about, separators=(',', ':'), sort_keys=True))}\n"


def _entry(worker: dict[str, Any]) -> Entry:
    """Return a manifest's worker, checked; its files are always in the manifest's own folder.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is malformed.
    """
    texts = [worker["endpoint"], *worker["files"].values(), *worker["failures"].values()]
    numbers = [worker[name] for name in ("rank", "pid", "world_size")]
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(number is None or (isinstance(number, int) and 0 <= number < 1 << 32) for number in numbers)
        or any("/" in name or "\0" in name for name in worker["files"].values())
    ):
        raise ValueError
    entry = Entry(**{name: worker[name] for name in Entry.__slots__ if name in worker})
    for name in ("host", "job_id", "degraded"):
        value = getattr(entry, name)
        setattr(entry, name, None if value is None else str(value))
    for name in ("start_time", "clock_offset_s", "since", "cpu_share"):
        if not isinstance(getattr(entry, name), (int, float)):
            setattr(entry, name, None)
    entry.silent, entry.left, entry.goes_on = entry.silent is True, entry.left is True, entry.goes_on is True
    entry.still = entry.still is True
    entry.moved = entry.moved if isinstance(entry.moved, bool) else None
    return entry


def _former(folder: str) -> Manifest | None:
    """Return a manifest of what an older `torchctl diagnose --save` wrote in a folder, or None if it wrote nothing."""
    try:
        with open(os.path.join(folder, FORMER), "rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        names = sorted(os.listdir(folder))
        if document["schema"] != _FORMER_SCHEMA:
            return None
        size, moved, left = document["world_size"], document["moved"], document["left"]
        entries: dict[int, Entry] = {}

        def entry(rank: str) -> Entry:
            number = int(rank)
            if number not in entries:
                went_on = None if moved is None else number in moved
                entries[number] = Entry(f"rank {rank}", number, left=number in left, moved=went_on)
                entries[number].world_size = size if isinstance(size, int) and 0 < size < 10_000_000 else None
            return entries[number]

        for rank, (host, pid) in document["places"].items():
            entry(rank).host, entry(rank).pid = host and str(host), pid and int(pid)
        for rank, reason in document["failed"].items():
            entry(rank).failures = dict.fromkeys((TRACE, STACKS), str(reason))
        for name in names:
            if match := _FORMER_STACKS.fullmatch(name):
                entry(match[1]).files[STACKS] = name
            elif match := _FORMER_TRACE.fullmatch(name):
                entry(match[2]).files[TRACE if match[1] == "nccl" else GENERIC_TRACE] = name
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Manifest([entries[rank] for rank in sorted(entries)], one_moment=True, former=True)
