"""The stacks of whole jobs: sampled from live workers or read from files, and merged per job."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torchctl.errors import EXIT_FAILED, WorkerError
from torchctl.manifest import STACKS, read_manifest
from torchctl.protocol.identity import Identity
from torchctl.ranks import MAX_RANKS, Member
from torchctl.reports.stackfiles import names_of, read_stack_files
from torchctl.stacks.merge import Merged, Worker, merge, name_workers
from torchctl.stacks.motion import Motion
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks
from torchctl.workers.ask.outcome import Outcome, is_stopped
from torchctl.workers.ask.question import Question
from torchctl.workers.causes import is_late
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.outside import NO_ANSWER, OUTSIDE_S, look_from_outside
from torchctl.workers.questions.basic import WorkerStacks, stacks_question
from torchctl.workers.roll import Roll, find_workers
from torchctl.workers.rollcall import absent_ranks
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets


@dataclass(frozen=True, slots=True)
class Choice:
    """Which threads, and how often.

    Attributes:
        thread: a role or name; None for the main thread.
        samples: how many times each worker is asked.
        interval_s: between two samples.
    """

    all_threads: bool = False
    thread: str | None = None
    samples: int = 1
    interval_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Outside:
    """Workers that cannot answer for the same reason, and where they are."""

    reason: str
    members: list[Member]
    merged: Merged


@dataclass(frozen=True, slots=True)
class JobStacks:
    """One job's merged stacks.

    Attributes:
        job_id: None if no worker reported one.
        members: the workers that answered themselves.
        outside: those whose stacks were read from outside, kept separate.
    """

    job_id: str | None
    world_size: int | None
    members: list[Member]
    merged: Merged
    outside: tuple[Outside, ...] = ()


class StackFileError(WorkerError):
    """A file that holds no stacks."""

    exit_code = EXIT_FAILED
    kind = "bad_file"


def ask_stacks(targets: Targets, choice: Choice) -> tuple[Survey[WorkerStacks], Motion]:
    """Ask all workers for their stacks, `choice.samples` times.

    Each sample gets an equal share of the time, not counting the pauses; a worker that did not answer is not asked
    again. On Ctrl-C, return the last whole sample, or what the first one gathered. At the end, workers on this host
    that did not answer in time are read from outside, which may take two seconds more.

    Returns:
        The last sample, with the failures from all samples; and what moved in between.
    """
    roll = find_workers(targets)
    several = len(roll.endpoints) > 1
    read = StackReader().read
    question = stacks_question(read, form="text" if several else "json")
    motion = Motion()
    share = targets.timeout_s / choice.samples
    first = result = _sample(roll, share, question, motion)
    lost = {one.endpoint: one for one in result.outcomes if one.value is None}
    motion.taken = 1
    interrupted = False
    while motion.taken < choice.samples and not is_stopped(result.outcomes):
        answering = [one.endpoint for one in result.outcomes if one.value is not None]
        if not answering:
            break
        try:
            time.sleep(choice.interval_s)
            new = _sample(roll.only(answering), share, question, motion)
        except KeyboardInterrupt:
            interrupted = True
        else:
            interrupted = is_stopped(new.outcomes)
        if interrupted:
            break
        result = new
        motion.taken += 1
        lost.update((one.endpoint, one) for one in result.outcomes if one.value is None)
    if not interrupted and not is_stopped(result.outcomes):
        lost.update((one.endpoint, one) for one in _from_outside(lost.values(), read))
    notes = list(first.notes)
    if interrupted:
        notes.append(f"interrupted after {motion.taken} of {choice.samples} samples")
    outcomes = [*lost.values(), *(one for one in result.outcomes if one.value is not None)]
    whole = Survey(outcomes, first.missing_ranks, notes, first.not_found, first.from_store, interrupted)
    return whole, motion


def _from_outside(
    lost: Iterable[Outcome[WorkerStacks]], read: Callable[[bytes], Stacks]
) -> Iterator[Outcome[WorkerStacks]]:
    """Yield the stacks that py-spy reads from workers that missed their deadline, including stopped ones."""
    errors = {one.endpoint: one.error for one in lost if one.error is not None and is_late(one.error)}
    for endpoint, reply in look_from_outside(errors, time.monotonic() + OUTSIDE_S, stopped=True):
        error = errors[endpoint]
        why = error.why if error.blocked else f"did not answer; its process is {error.why}" if error.why else NO_ANSWER
        rank = endpoint.rank if reply.rank is None else reply.rank
        with contextlib.suppress(ValueError):  # py-spy printed something else: the failure stays
            stacks = WorkerStacks(rank, reply.pid, read(reply.body), degraded=why)
            yield Outcome(endpoint, stacks, None, reply.identity._replace(rank=rank, degraded=why))


def _sample(roll: Roll, share_s: float, question: Question[WorkerStacks], motion: Motion) -> Survey[WorkerStacks]:
    result = survey(roll.until(time.monotonic() + share_s), question)
    for one in result.outcomes:
        if one.value is not None:
            motion.add(one.endpoint, one.value.stacks, one.value.step)
    return result


def read_stacks(paths: Sequence[str]) -> Survey[WorkerStacks]:
    """Return the stacks in files and folders, as if their workers had answered just now.

    Raises:
        TorchctlError: a path does not exist, or a folder holds no stack file.
    """
    outcomes: list[Outcome[WorkerStacks]] = []
    files = read_stack_files(paths, StackReader())
    for one, name in zip(files.found, names_of(files.found), strict=True):
        endpoint = Endpoint(path=one.path, rank=one.rank)
        if one.stacks is None:
            error = StackFileError(one.reason, endpoint=one.path, rank=one.rank)
            outcomes.append(Outcome(endpoint, None, error))
        else:
            degraded = one.entry.degraded if one.entry is not None else None
            outcomes.append(Outcome(endpoint, WorkerStacks(one.rank, one.pid, one.stacks, None, degraded, name), None))
    manifests = [manifest for path in paths if os.path.isdir(path) and (manifest := read_manifest(path)) is not None]
    have = {one.endpoint.rank for one in outcomes}
    for entry in (entry for manifest in manifests for entry in manifest.entries):
        if STACKS in entry.failures and STACKS not in entry.files and (entry.rank is None or entry.rank not in have):
            error = StackFileError(entry.failures[STACKS], endpoint=entry.endpoint, rank=entry.rank, hint="")
            outcomes.append(Outcome(Endpoint(path=entry.endpoint, rank=entry.rank), None, error))
    world = min(max((manifest.world_size or 0 for manifest in manifests), default=0), MAX_RANKS)
    if manifests or len(outcomes) > 1:  # with just one file, no rank counts as missing
        world = max(world, *(one.endpoint.rank + 1 for one in outcomes if one.endpoint.rank is not None), 0)
    known = [
        Outcome(
            one.endpoint,
            one.value,
            one.error,
            Identity(one.endpoint.rank, world_size=world, degraded=one.value.degraded if one.value else None),
        )
        for one in outcomes
    ]
    return Survey(known, [], files.notes, absent_ranks(known) if world else {})


def merge_jobs(outcomes: Iterable[Outcome[WorkerStacks]], choice: Choice, motion: Motion | None) -> list[JobStacks]:
    """Merge the stacks of each job; workers that do not report a job belong to the only one, if there is just one."""
    by_job: dict[str | None, list[Outcome[WorkerStacks]]] = {}
    for one in outcomes:
        by_job.setdefault(one.identity.job_id, []).append(one)
    if len(by_job) == 2 and None in by_job:
        (job,) = by_job.keys() - {None}
        by_job[job] += by_job.pop(None)
    jobs = []
    for job, group in sorted(by_job.items(), key=lambda item: (item[0] is None, item[0] or "")):
        answers = [(one, one.value) for one in group if one.value is not None]
        names = name_workers([(value.rank, value.name or str(one.endpoint)) for one, value in answers])
        sizes = [one.identity.world_size or 0 for one in group]
        world = max((size for size in sizes if size <= MAX_RANKS), default=0) or None
        # By why they did not answer; None for those that answered themselves.
        by_reason: dict[str | None, list[Worker]] = {}
        for member, (one, value) in zip(names, answers, strict=True):
            moved = motion.moved(one.endpoint) if motion is not None else None
            by_reason.setdefault(value.degraded, []).append(Worker(member, value.stacks, moved))
        own = by_reason.pop(None, [])
        outside = tuple(
            Outside(reason or "", *_merged(workers, choice))
            for reason, workers in sorted(by_reason.items(), key=lambda item: len(item[1]))
        )
        jobs.append(JobStacks(job, world, *_merged(own, choice), outside))
    return jobs


def _merged(workers: list[Worker], choice: Choice) -> tuple[list[Member], Merged]:
    return [one.member for one in workers], merge(workers, thread=choice.thread, all_threads=choice.all_threads)
