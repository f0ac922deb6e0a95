"""Last words as evidence: of a job that has died, of the dead ranks of one that runs, and of files in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

from torchctl.diagnosis.deaths import Death
from torchctl.diagnosis.evidence import Evidence, Place, Unread
from torchctl.diagnosis.model import Location
from torchctl.files import write_file
from torchctl.flightrec.table.loading import load_raw
from torchctl.process.deaths import Attempt, attempts_of, lived_with
from torchctl.process.lastword import LastWord, read
from torchctl.ranks import MAX_RANKS
from torchctl.reports.content import whole
from torchctl.text import duration
from torchctl.workers.causes import death, last_words, raised_at
from torchctl.workers.targets import Targets

_UNCAUGHT = "uncaught "
_EXIT_CODE = "exit code "
_MEMORY_KILLER = "out-of-memory killer"
_MOST_JOBS = 3  # that a note names


def of_dead_job(targets: Targets) -> Evidence | None:
    """Return the evidence in the last words of the job that died last; None if none has died on this host.

    Args:
        targets: if they say where the workers are, this host's last words say nothing about them.
    """
    if targets.names_any():
        return None
    attempts = [one for one in attempts_of(last_words(orderly=True)) if targets.job in (None, one.job_id)]
    latest = _latest(attempts)
    if latest is None:
        return None
    evidence = Evidence(load_raw([]))
    job = "a job without an id" if latest.job_id is None else f"job {latest.job_id}"
    ago = duration(max(0, int(time.time() - latest.last)))
    evidence.trace.notes.append(f"no worker answers: this is the end of {job}, {ago} ago, by its last words")
    _take_job(evidence, attempts)
    return evidence


def of_running_job(targets: Targets, jobs: set[str | None], started: float | None, size: int | None) -> list[LastWord]:
    """Return the last words of the ranks of a job some of whose workers answer.

    Args:
        jobs: the ids that its workers state; of several jobs nothing is returned.
        started: when the first of them was started; None if it is not known.
        size: of the world.
    """
    if targets.names_any() or len(jobs) != 1 or started is None:
        return []
    attempts = [one for one in attempts_of(last_words(orderly=True)) if one.job_id in jobs]
    return [
        word
        for attempt in attempts
        for word in attempt.words
        if word.rank is not None and word.world_size in (None, size) and lived_with(word, started)
    ]


def take_files(evidence: Evidence, paths: Iterable[str]) -> None:
    """Add the last words in files: those of the job that died last."""
    words = []
    for path in paths:
        word = read(path)
        if word is None:
            evidence.unread.append(Unread(path, None, "is not a last word"))
        else:
            words.append(word)
    _take_job(evidence, attempts_of(words))


def add_deaths(evidence: Evidence, words: Sequence[LastWord]) -> None:
    """Add the last words of one attempt at a job; a rank that answered after its last word is another process."""
    evidence.deaths += [_death(word) for word in words]
    sizes = [word.world_size for word in words if word.world_size is not None and 0 < word.world_size <= MAX_RANKS]
    evidence.world_size = max([*sizes, evidence.world_size or 0]) or None
    seen = evidence.ranks()
    for word in words:
        rank = _rank(word)
        if rank is None:
            continue
        evidence.places.setdefault(rank, Place(word.host or None, word.pid))
        if seen and not word.orderly and rank not in seen:
            evidence.failed = {rank: death(word), **evidence.failed}
            evidence.left |= {rank}


def copy_to(folder: str, sources: Iterable[str]) -> int:
    """Copy the files of last words into a folder and return how many could be read; they may be gone meanwhile.

    Raises:
        TorchctlError: one cannot be written.
    """
    copied = 0
    for source in sources:
        try:
            content = whole(source)
        except OSError:
            continue
        write_file(os.path.join(folder, os.path.basename(source)), content, hint="choose another folder")
        copied += 1
    return copied


def of_collected(targets: Targets, jobs: set[str | None]) -> list[LastWord]:
    """Return the last words to keep beside what a job's workers gave: of their jobs, else of the job that died last."""
    if targets.names_any():
        return []
    attempts = [one for one in attempts_of(last_words(orderly=True)) if targets.job in (None, one.job_id)]
    if jobs:
        return [word for one in attempts if one.job_id in jobs for word in one.words]
    latest = _latest(attempts)
    return [] if latest is None else latest.words


def _take_job(evidence: Evidence, attempts: Sequence[Attempt]) -> None:
    """Add the last words of the job that died last, and a note about the others."""
    latest = _latest(attempts)
    if latest is None:
        return
    add_deaths(evidence, latest.words)
    jobs = list(dict.fromkeys(one.job_id for one in attempts if one.dead and one.job_id != latest.job_id))
    former = [one for one in attempts if one.job_id == latest.job_id and one is not latest and one.dead]
    notes = evidence.trace.notes
    if jobs:
        names = ", ".join(job or "without an id" for job in jobs[:_MOST_JOBS]) + ", ..." * (len(jobs) > _MOST_JOBS)
        plural = "s" * (len(jobs) > 1)
        notes.append(f"ignored: last words of {len(jobs)} other job{plural} ({names})")
    if former:
        earlier = "an earlier attempt" if len(former) == 1 else f"{len(former)} earlier attempts"
        notes.append(f"ignored: last words of {earlier} at this job")


def _latest(attempts: Sequence[Attempt]) -> Attempt | None:
    """Return the attempt that died last; one that was followed by another at the same job does not count."""
    newest: dict[str | None, Attempt] = {}
    for one in attempts:  # the attempt that ended last comes first
        newest.setdefault(one.job_id, one)
    dead = [one for one in newest.values() if one.dead]
    return max(dead, key=lambda one: one.dead[-1].died, default=None)


def _rank(word: LastWord) -> int | None:
    """Return the rank; a file may state anything."""
    return word.rank if word.rank is not None and 0 <= word.rank < MAX_RANKS else None


def _death(word: LastWord) -> Death:
    """Return a last word as evidence; of an older version's, what its text says."""
    cause, exception, signal, code = word.cause, word.exception, word.signal, word.exit_code
    if not exception and cause.startswith(_UNCAUGHT):
        exception = cause[len(_UNCAUGHT) :]
    if not signal and cause.startswith("SIG"):
        signal = cause.partition(",")[0]
    if code is None and cause.startswith(_EXIT_CODE) and cause[len(_EXIT_CODE) :].isdecimal():
        code = int(cause[len(_EXIT_CODE) :])
    message = " ".join(word.message.split())
    frame = raised_at(word)
    location = None
    if frame is not None:
        process = "" if _rank(word) is not None else f"{word.host} pid {word.pid}".strip()
        location = Location(_rank(word), frame.file, frame.line, frame.function, process)
    return Death(
        _rank(word),
        word.pid,
        word.host,
        word.died,
        f"{cause}: {message}" if message else cause,
        exception,
        message,
        signal,
        word.handled,
        code,
        location,
        word.step,
        word.orderly,
        killed_for_memory=word.out_of_memory or (signal == "SIGKILL" and _MEMORY_KILLER in word.note),
        noticed=word.witness == "sentinel" or (not word.witness and not exception),
        source=word.path,
    )
