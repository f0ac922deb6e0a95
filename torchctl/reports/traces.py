"""Sources of dumps for `torchctl nccl-trace`, files or live workers, and which workers have none and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torchctl.diagnosis.evidence import ARCHIVE
from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, DeadlineError, TorchctlError, WorkerError
from torchctl.flightrec.decoding.decode import rank_from_name
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.folder import Found, find_files
from torchctl.flightrec.table.gather import read_files
from torchctl.manifest import GENERIC_TRACE, TRACE, Entry, read_manifest
from torchctl.reports.leftovers import is_archive

if TYPE_CHECKING:
    from torchctl.workers.survey import Survey
    from torchctl.workers.targets import Targets

_SLOW_FRAMES = (
    "the first dump with stack frames of a process takes it a second, and longer under load:"
    " try a longer --timeout, or --no-stacktraces"
)


class NotCollectedError(WorkerError):
    """The manifest of a folder says that a worker's dump could not be obtained."""

    exit_code = EXIT_UNREACHABLE
    kind = "not_collected"
    hint = "while the job runs, `torchctl collect` with the same folder asks again for what is missing"


class Traces:
    """The dumps, which can be iterated over once; after that, what is missing.

    Attributes:
        missing: the workers without a dump, and the ranks that were not found; None if nothing is missing.
    """

    def __init__(self) -> None:
        self.missing: Survey[Any] | None = None

    def __iter__(self) -> Iterator[RawDump | Failure]:
        raise NotImplementedError

    @property
    def exit_code(self) -> int:
        """The exit code for missing dumps, if all others can be read."""
        return EXIT_OK if self.missing is None else self.missing.exit_code

    @property
    def failures(self) -> list[Failure]:
        """A failure for each worker without a dump, by rank."""
        errors = [one.error for one in self.missing.outcomes if one.error is not None] if self.missing else []
        errors.sort(key=lambda error: (error.rank is None, error.rank or 0, error.endpoint))
        return [Failure(error.endpoint, error.rank, error) for error in errors]


class FileTraces(Traces):
    """The dumps in files and folders; a folder's manifest says which could not be obtained.

    Raises:
        TorchctlError: a folder holds no dump, and no manifest says why.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._found: list[Found] = []
        lost: list[WorkerError] = []
        for path in paths:
            if not os.path.isdir(path):
                self._found.append(Found(path, rank_from_name(path), True))
                continue
            found, others = find_files([path])
            dumps = [file for file in found if file.claimed]
            missing = _not_collected(path, {file.rank for file in dumps})
            if not dumps and not missing:
                archives = [f"{other} {ARCHIVE}: unpack it" for other in others if is_archive(other)]
                hint = "; ".join(archives[:3]) or "give the dump files, or a folder that holds them"
                raise TorchctlError(f"no flight-recorder dump in {path}", hint=hint)
            self._found += sorted(dumps, key=lambda file: (file.rank is None, file.rank or 0, file.path))
            lost += missing
        if lost:
            from torchctl.workers.ask.outcome import Outcome
            from torchctl.workers.endpoint import Endpoint
            from torchctl.workers.survey import Survey

            outcomes: list[Outcome[Any]] = [
                Outcome(Endpoint(path=error.endpoint, rank=error.rank), None, error) for error in lost
            ]
            self.missing = Survey(outcomes, [], [])

    def __iter__(self) -> Iterator[RawDump | Failure]:
        return read_files(self._found)


class WorkerTraces(Traces):
    """The dumps of live workers.

    Args:
        frames: include the stack of each entry; a process takes a second for its first such dump.
    """

    def __init__(self, targets: Targets, *, frames: bool) -> None:
        super().__init__()
        self._targets = targets
        self._frames = frames

    def __iter__(self) -> Iterator[RawDump | Failure]:
        """Ask the workers and yield their answers.

        Raises:
            NoWorkersError: there is no worker to ask.
        """
        from torchctl.workers.questions.dumps import dumps_question
        from torchctl.workers.roll import find_workers
        from torchctl.workers.survey import survey

        self.missing = result = survey(find_workers(self._targets), dumps_question(stacktraces=self._frames))
        for outcome in result.outcomes:
            error = outcome.error
            if self._frames and type(error) is DeadlineError and not error.blocked:
                error.hint = _SLOW_FRAMES
        for endpoint, dumps in result.answers:
            for trace in dumps.traces:
                yield RawDump(str(endpoint), dumps.rank, trace.body, answered_ns=trace.answered_ns)


def _not_collected(folder: str, have: set[int | None]) -> list[WorkerError]:
    """Return an error for each worker whose dump is missing according to a folder's manifest.

    A worker is not included if its replacement sent a dump.
    """
    manifest = read_manifest(folder)
    lost: list[WorkerError] = []
    for entry in manifest.entries if manifest is not None else ():
        reasons = _reasons(entry)
        if reasons and (TRACE in entry.files or entry.rank is None or entry.rank not in have):
            lost.append(NotCollectedError("; ".join(reasons), endpoint=entry.endpoint, rank=entry.rank))
    return lost


def _reasons(entry: Entry) -> list[str]:
    """Return why a worker's dumps are missing, each reason once."""
    parts = (TRACE, GENERIC_TRACE)
    return list(
        dict.fromkeys(entry.failures[part] for part in parts if part in entry.failures and part not in entry.files)
    )
