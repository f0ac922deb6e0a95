"""Saves everything from every worker to files, for the minute before a job is restarted.

How this works: each answer is written as soon as it arrives, whole or not at all, so nothing is lost if the run is
interrupted or if a worker answers one request and hangs on the next. For each worker, `collect.json` records its files,
how its host's clock differs from ours, and what is missing and why. A second run into the same folder asks only for
what is missing, on other hosts too; a new process at a known address gets its own files.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchctl.errors import EXIT_FAILED, NoSuchHandlerError, TorchctlError, WorkerError
from torchctl.manifest import INFO, STACKS, Entry, FolderWriter, Manifest, read_manifest
from torchctl.process.lastword import LastWord
from torchctl.protocol import compact_json
from torchctl.reports.entries import take_failure, take_reply
from torchctl.reports.lastwords import copy_to
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import is_late
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.outside import NO_ANSWER, OUTSIDE_S, look_from_outside
from torchctl.workers.questions.everything import Had, ask_parts

_HINT = "choose another folder"
_MAX_HAD_BYTES = 60_000  # what we have from one host is sent in a command line, which is limited to 128 KiB


@dataclass(frozen=True, slots=True)
class Collected:
    """One worker's result: the files it has now, and those that could not be obtained."""

    rank: int | None
    files: Mapping[str, str]
    failures: Mapping[str, str]


class NotWrittenError(WorkerError):
    """A worker answered, but its answer could not be saved."""

    exit_code = EXIT_FAILED
    kind = "not_written"
    hint = _HINT


class Collection:
    """A folder that answers are written to.

    Args:
        folder: created if missing.

    Raises:
        TorchctlError: the folder cannot be created, or holds a `collect.json` that is not ours.
    """

    def __init__(self, folder: str) -> None:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise TorchctlError(f"cannot create {folder}: {error.strerror}", hint=_HINT) from error
        self._entries: dict[str, Entry] = {}
        self._former: list[Entry] = []  # processes since replaced by another one
        known = read_manifest(folder) or Manifest()
        if known.former:
            raise TorchctlError(f"{folder} holds evidence that an older `torchctl diagnose --save` wrote", hint=_HINT)
        self._one_moment = known.one_moment
        for one in known.entries:
            files = {part: name for part, name in one.files.items() if os.path.exists(f"{folder}/{name}")}
            entry = replace(one, files=files, failures=dict(one.failures))
            if entry.endpoint in self._entries:
                self._former.append(self._entries[entry.endpoint])
            self._entries[entry.endpoint] = entry
        self._writer = FolderWriter(folder, [*self._former, *self._entries.values()])

    def question(self) -> Question[Collected]:
        """Return the question that asks a worker for everything still missing and saves the answers."""
        return _Missing(self)

    def ask(self, endpoint: Endpoint, had: Had | None) -> Asking[Collected]:
        """Ask one worker for what is not in `had`."""
        key = str(endpoint)
        entry = self._entries.setdefault(key, Entry(key, endpoint.rank))
        entry.failures, entry.left, entry.silent = {}, False, False

        def renew() -> None:
            nonlocal entry
            self._former.append(entry)
            entry = self._entries[key] = Entry(key, endpoint.rank)

        def take(part: str, answer: Reply | WorkerError) -> None:
            if isinstance(answer, Reply):
                self._write(entry, part, answer)
            elif part not in entry.files and (part == STACKS or not isinstance(answer, NoSuchHandlerError)):
                entry.failures[part] = answer.detail

        yield from ask_parts(had, take, renew)
        return Collected(entry.rank, dict(entry.files), dict(entry.failures))

    def look_from_outside(self, outcomes: Iterable[Outcome[Collected]]) -> None:
        """Save stacks read by py-spy for workers on this host that sent none in time."""
        silent = [one.endpoint for one in outcomes if is_late(one.error)]
        silent = [one for one in silent if (entry := self._entries.get(str(one))) is None or STACKS not in entry.files]
        for endpoint, reply in look_from_outside(silent, time.monotonic() + OUTSIDE_S):
            entry = self._entries.setdefault(str(endpoint), Entry(str(endpoint), endpoint.rank))
            identity = reply.identity._replace(degraded=NO_ANSWER)
            with contextlib.suppress(NotWrittenError):  # earlier parts are saved, and the failure stays
                self._write(entry, STACKS, reply._replace(identity=identity))

    def had_of(self, endpoint: str) -> Had | None:
        """Return what earlier runs collected from a worker."""
        entry = self._entries.get(endpoint)
        return None if entry is None else _had(entry)

    def had_on(self, host: str) -> dict[str, Had]:
        """Return what earlier runs collected from a host's workers, by their path on that host."""
        begin = f"{host}:/"
        return {
            key[len(begin) - 1 :]: had
            for key, entry in self._entries.items()
            if key.startswith(begin) and (had := _had(entry)) is not None
        }

    def finish(self, outcomes: list[Outcome[Collected]], not_found: dict[str | None, list[int]]) -> str:
        """Write the manifest and return its path."""
        for one in outcomes:
            entry = self._entries.setdefault(str(one.endpoint), Entry(str(one.endpoint), one.endpoint.rank))
            if one.error is not None:
                take_failure(entry, one.endpoint, one.error, one.identity)
        entries = [*self._former, *self._entries.values()]
        return self._writer.finish(Manifest(entries, not_found, self._one_moment))

    def keep_last_words(self, words: Iterable[LastWord]) -> int:
        """Copy last words into the folder and return how many; raises as `finish`."""
        return copy_to(self._writer.folder, [word.path for word in words])

    def _write(self, entry: Entry, part: str, reply: Reply) -> None:
        answer = take_reply(entry, part, reply)
        if part != INFO:
            self._one_moment = False
        try:
            self._writer.write(entry, part, answer)
        except TorchctlError as error:
            detail = f"answered, but the answer could not be saved: {error.message}"
            raise NotWrittenError(detail, endpoint=entry.endpoint, rank=entry.rank) from error


class _Missing(Question[Collected]):
    """Asks each worker for what a collection does not have yet."""

    name = "everything"

    def __init__(self, collection: Collection) -> None:
        super().__init__(self._ask)
        self._collection = collection
        self._there: dict[str, dict[str, Had]] = {}  # what we told each host's relay that we have

    def _ask(self, endpoint: Endpoint) -> Asking[Collected]:
        if endpoint.node:
            had = self._there.get(endpoint.node, {}).get(endpoint.path)
        else:
            had = self._collection.had_of(str(endpoint))
        return self._collection.ask(endpoint, had)

    def arguments_on(self, host: str) -> dict[str, Any]:
        had = self._collection.had_on(host)
        self._there[host] = had if len(compact_json(had)) <= _MAX_HAD_BYTES else {}
        return {"had": self._there[host]}


def _had(entry: Entry) -> Had | None:
    """Return what not to ask for again; a sentinel's answers do not count, since the worker may answer itself now."""
    parts = tuple(part for part in entry.files if entry.degraded is None or part not in (INFO, STACKS))
    return Had(entry.pid, parts) if entry.files else None
