"""Everything from every worker into files, for the minute before a job is restarted.

How this works: each answer is written the moment it comes, whole or not at all, so that an interrupted run, or a worker
that answers one question and hangs on the next, leaves all that was had. `collect.json` says, per worker, whose the
files are, how its host's clock stood to ours, what is missing and why. A second run into the same folder asks only for
what is missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from torchctl.collected import MANIFEST, SCHEMA, read_manifest
from torchctl.endpoint import Endpoint
from torchctl.errors import NoSuchHandlerError, TorchctlError, WorkerError
from torchctl.fanout import Outcome
from torchctl.files import write_file
from torchctl.protocol import compact_json
from torchctl.question import Question, Steps, ask_handler
from torchctl.reply import Identity, Reply
from torchctl.text import printable

INFO, TRACE, GENERIC_TRACE, STACKS = "info", "nccl_trace", "fr_trace", "traceback"
_ENDINGS = {INFO: ".json", TRACE: "", GENERIC_TRACE: "", STACKS: ".txt"}


@dataclass(frozen=True, slots=True)
class Collected:
    """One worker's part: which files there are now, and which could not be had."""

    rank: int | None
    files: Mapping[str, str]
    failures: Mapping[str, str]


@dataclass(slots=True)
class _Entry:
    """What the manifest says of one worker."""

    endpoint: str
    rank: int | None = None
    pid: int | None = None
    host: str | None = None
    job_id: str | None = None
    world_size: int | None = None
    clock_offset_s: float | None = None
    degraded: str | None = None  # why its stacks were read from outside
    files: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Collection:
    """A folder that answers are written into.

    Args:
        folder: made when it is missing.

    Raises:
        TorchctlError: it cannot be made, or holds somebody else's `collect.json`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise TorchctlError(f"{folder} cannot be made: {error.strerror}", hint="choose another folder") from error
        self._entries: dict[str, _Entry] = {}
        known = read_manifest(folder)
        for worker in known["workers"] if known else []:
            entry = _Entry(**{name: worker.get(name) for name in _Entry.__slots__})
            entry.files = {
                part: name for part, name in worker["files"].items() if os.path.exists(os.path.join(folder, name))
            }
            self._entries[entry.endpoint] = entry

    def question(self) -> Question[Collected]:
        """Return the question that asks a worker for all that is missing of it, and writes the answers down."""

        @Question
        def everything(endpoint: Endpoint) -> Steps[Collected]:
            entry = self._entries.setdefault(str(endpoint), _Entry(str(endpoint), endpoint.rank))
            entry.failures = {}
            asked = time.time()

            def take(part: str, answer: Reply | WorkerError) -> None:
                if isinstance(answer, Reply):
                    # A worker without NCCL has given its generic recorder in the place of NCCL's already.
                    if part != GENERIC_TRACE or TRACE not in entry.files or answer.recorder != "generic":
                        self._write(entry, part, answer, asked)
                elif not isinstance(answer, NoSuchHandlerError) or part == STACKS:
                    entry.failures[part] = answer.detail

            # A relay has asked for everything before we can say what is here.
            yield from _sequence(() if endpoint.node else tuple(entry.files), take)
            return Collected(entry.rank, dict(entry.files), dict(entry.failures))

        everything.name = "everything"
        return everything

    def finish(self, outcomes: list[Outcome[Collected]], not_found: dict[str | None, list[int]]) -> str:
        """Write the manifest and return its path."""
        for one in outcomes:
            entry = self._entries.setdefault(str(one.endpoint), _Entry(str(one.endpoint), one.endpoint.rank))
            if one.error is not None:
                missing = [part for part in (INFO, TRACE, STACKS) if part not in entry.files]
                entry.failures = {**dict.fromkeys(missing, one.error.detail), **entry.failures}
        document = {
            "schema": SCHEMA,
            "time": time.time(),
            "host": os.uname().nodename,
            "workers": [
                {name: getattr(entry, name) for name in _Entry.__slots__}
                for entry in sorted(self._entries.values(), key=lambda entry: (entry.rank is None, entry.rank or 0))
            ],
            "not_found": [{"job_id": job, "ranks": ranks} for job, ranks in not_found.items()],
        }
        path = os.path.join(self.folder, MANIFEST)
        write_file(path, json.dumps(document, sort_keys=True, indent=2).encode() + b"\n")
        return path

    def _write(self, entry: _Entry, part: str, reply: Reply, asked: float) -> None:
        identity = reply.identity
        for name in ("rank", "pid", "job_id", "world_size"):
            value = getattr(identity, name)
            if value is not None:
                setattr(entry, name, value)
        body = reply.body
        if part == INFO:
            _take_info(entry, body, asked, time.time())
        elif part == STACKS:
            entry.degraded = identity.degraded
            body = _headline(entry, identity).encode() + body
        name = self._name(entry, part)
        write_file(os.path.join(self.folder, name), body)
        entry.files[part] = name

    def _name(self, entry: _Entry, part: str) -> str:
        """Return a file's name; a second worker that claims the same rank gets a number of its own."""
        whose = f"rank_{entry.rank}" if entry.rank is not None else "worker"
        taken = {name for other in self._entries.values() if other is not entry for name in other.files.values()}
        number = 1
        while True:
            twin = "" if number == 1 and entry.rank is not None else f"_twin{number}"
            name = f"{part}_{whose}{twin}{_ENDINGS[part]}"
            if name not in taken:
                return name
            number += 1


@Question
def everything_unkept(endpoint: Endpoint) -> Steps[Collected]:
    """Ask for everything and keep nothing: what a relay does, whose transcript is what counts."""
    yield from _sequence((), lambda part, answer: None)
    return Collected(None, {}, {})


def _sequence(have: Sequence[str], take: Callable[[str, Reply | WorkerError], None]) -> Steps[None]:
    """Ask for the parts one after the other; go on after a failure if anything has been had.

    Stacks come before traces, whose first dump takes a process a second; but last on torch's own server, which answers
    traces without the interpreter lock and hangs on stacks. It is known by its missing `info`.
    """
    answering = bool(have)
    parts = [INFO, STACKS, TRACE, GENERIC_TRACE]
    while parts:
        part = parts.pop(0)
        if part in have:
            continue
        try:
            reply = yield from _part(part)
        except WorkerError as error:
            take(part, error)
            if part == INFO and isinstance(error, NoSuchHandlerError):
                parts = [TRACE, GENERIC_TRACE, STACKS]
            if not answering and not isinstance(error, NoSuchHandlerError):
                raise
        else:
            answering = True
            take(part, reply)


def _part(part: str) -> Steps[Reply]:
    if part == INFO:
        return (yield ask_handler("info", max_bytes=1 << 20))
    if part == STACKS:
        return (yield ask_handler("dump_traceback"))
    if part == TRACE:
        return (yield ask_handler("dump_nccl_trace_pickle"))
    try:
        return (yield ask_handler("fr_trace_pickle"))
    except NoSuchHandlerError:
        return (yield ask_handler("fr_trace_json"))


def _take_info(entry: _Entry, body: bytes, asked: float, answered: float) -> None:
    """Take host and clock from a worker's `info`; its clock is compared with the middle of asking and answer."""
    try:
        document: Any = json.loads(body)
        host, clock = document.get("host"), document.get("time")
    except (ValueError, AttributeError, RecursionError):
        return
    entry.host = host[:200] if isinstance(host, str) else None
    if isinstance(clock, float):
        entry.clock_offset_s = round(clock - (asked + answered) / 2, 6)


def _headline(entry: _Entry, identity: Identity) -> str:
    """Return a line that says whose stacks follow; readers of faulthandler's text pass over it."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    about = {"rank": identity.rank, "host": entry.host, "pid": identity.pid, "time": now}
    about["clock_offset_s"] = None if entry.clock_offset_s is None else str(entry.clock_offset_s)
    return f"# torchctl {printable(compact_json(about))}\n"
