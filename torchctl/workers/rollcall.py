"""Which ranks are present, missing, duplicated or stale, according to all outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from torchctl.errors import NoSuchSocketError, RefusedError
from torchctl.ranks import MAX_RANKS
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.endpoint import Endpoint

_SAME_START_S = 1.0  # start times are in clock ticks, relative to a rounded boot time


class HasRank(Protocol):
    """What every answer has: the rank that sent it."""

    @property
    def rank(self) -> int | None: ...


T = TypeVar("T", bound=HasRank)


def rank_of(outcome: Outcome[T]) -> int | None:
    """Return the rank of an outcome: from the answer, else from the error, else from the address."""
    if outcome.value is not None:
        return outcome.value.rank
    rank = None if outcome.error is None else outcome.error.rank
    return outcome.endpoint.rank if rank is None else rank


def _place(outcome: Outcome[T]) -> int | None:
    """Return the rank that an outcome accounts for: torch's own server answers without saying its rank."""
    rank = rank_of(outcome)
    return outcome.endpoint.rank if rank is None else rank


def absent_ranks(outcomes: Sequence[Outcome[T]]) -> dict[str | None, list[int]]:
    """Return, per job, the ranks within the reported world size that no worker claims; jobs without any are omitted.

    A failure with a known rank counts as found. A failure with an unknown rank could be any of them. An answer that
    does not name a job could belong to any job.
    """
    worlds = _worlds(outcomes)
    failed = {rank_of(outcome) for outcome in outcomes if outcome.value is None}
    absent = {}
    for job, size in worlds.items():
        present = {_place(one) for one in outcomes if one.value is not None and one.identity.job_id in (job, None)}
        ranks = [rank for rank in range(size) if rank not in present and rank not in failed]
        if ranks:
            absent[job] = ranks
    return absent


def _worlds(outcomes: Iterable[Outcome[T]]) -> dict[str | None, int]:
    worlds: dict[str | None, int] = {}
    for one in outcomes:
        size = one.identity.world_size
        if size is not None and size <= MAX_RANKS:
            worlds[one.identity.job_id] = max(size, worlds.get(one.identity.job_id, 0))
    return worlds


def of_job(outcomes: list[Outcome[T]], job: str | None) -> tuple[list[Outcome[T]], list[str]]:
    """Return the outcomes of one job, including those without an answer, which may belong to it, and notes."""
    if job is None:
        return list(outcomes), []
    kept = [one for one in outcomes if one.value is None or one.identity.job_id == job]
    left = len(outcomes) - len(kept)
    if not left:
        return kept, []
    workers = "1 worker of another job, or that does not report its job"
    if left > 1:
        workers = f"{left} workers of other jobs, or that do not report their job"
    return kept, [f"ignored: {workers}"]


def without_leftovers(outcomes: Sequence[Outcome[T]]) -> tuple[list[Outcome[T]], list[Endpoint]]:
    """Separate the outcomes from leftovers: dead sockets in the runtime folder that the operator did not name.

    The socket of a killed rank is not a leftover if a live worker reports a world size that includes the rank, and no
    other worker claims it.
    """
    size = max(_worlds(outcomes).values(), default=0)
    alive = {rank_of(one) for one in outcomes if not _is_dead(one)}
    kept: list[Outcome[T]] = []
    leftovers = []
    for one in outcomes:
        rank = one.endpoint.rank
        if _is_dead(one) and (rank is None or rank >= size or rank in alive):
            leftovers.append(one.endpoint)
        else:
            kept.append(one)
            alive.add(rank if _is_dead(one) else None)  # if a rank has two dead sockets, one is enough
    return kept, leftovers


def _is_dead(outcome: Outcome[T]) -> bool:
    return outcome.endpoint.found and isinstance(outcome.error, RefusedError | NoSuchSocketError)


def unclaimed(ranks: list[int], outcomes: Iterable[Outcome[T]]) -> list[int]:
    claimed = set()
    for outcome in outcomes:
        claimed.add(outcome.value.rank if outcome.value is not None else outcome.endpoint.rank)
    return [rank for rank in ranks if rank not in claimed]


def oddities(outcomes: Sequence[Outcome[T]]) -> list[str]:
    """Return notes on workers from several jobs, and on ranks claimed by two workers of a job."""
    notes = []
    jobs: dict[str, int] = {}
    claims: dict[tuple[str | None, int], list[str]] = {}
    for one in outcomes:
        if one.value is None:
            continue
        if one.identity.job_id is not None:
            jobs[one.identity.job_id] = jobs.get(one.identity.job_id, 0) + 1
        if one.value.rank is not None:
            claims.setdefault((one.identity.job_id, one.value.rank), []).append(str(one.endpoint))
    if len(jobs) > 1:
        listed = ", ".join(f"{job} ({count})" for job, count in sorted(jobs.items()))
        notes.append(f"workers of {len(jobs)} jobs answered: {listed}; --job ID picks one")
    for (_, rank), names in sorted(claims.items(), key=lambda item: item[0][1]):
        if len(names) > 1:
            notes.append(f"rank {rank} is claimed by {len(names)} workers: {', '.join(names)}")
    return notes + [note for one in outcomes if (note := _stale(one))]


def _stale(one: Outcome[T]) -> str:
    """Return a note if the worker at an address has a different rank or process than the one it was listed for."""
    if one.value is None:
        return ""
    if one.endpoint.process is None:
        if None in (one.endpoint.rank, one.value.rank) or one.endpoint.rank == one.value.rank:
            return ""
        return f"{one.endpoint} was given as rank {one.endpoint.rank}, but rank {one.value.rank} answers there"
    pid, started = one.endpoint.process
    began = getattr(one.value, "start_time", None)
    same = one.identity.pid in (None, pid) and (began is None or abs(began - started) < _SAME_START_S)
    if same and one.value.rank in (None, one.endpoint.rank):
        return ""
    who = "another process" if one.value.rank is None else f"rank {one.value.rank}"
    return (
        f"rank {one.endpoint.rank}: the store's address {one.endpoint} is from before a restart: "
        f"pid {pid} registered it, and {who} with pid {one.identity.pid} answers"
    )


def ended(leftovers: Sequence[Endpoint]) -> str:
    """Return a note on the sockets of workers that have exited."""
    if len(leftovers) == 1:
        return f"ignored: the socket of a worker that has ended ({_named(leftovers)})"
    return f"ignored: {len(leftovers)} sockets of workers that have ended ({_named(leftovers)})"


def _named(endpoints: Sequence[Endpoint]) -> str:
    shown = [os.path.basename(endpoint.path) for endpoint in endpoints[:3]]
    return ", ".join([*shown, "..."] if len(endpoints) > len(shown) else shown)
