"""What came of asking the workers that the options name: one outcome per worker, and who is not among them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from torchctl import runtimedir
from torchctl.endpoint import Endpoint
from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, NoSuchSocketError, NoWorkersError, RefusedError, TorchctlError
from torchctl.fanout import Outcome, ask_all, exit_code
from torchctl.question import Question, Steps, ask_handler
from torchctl.ranks import MAX_RANKS, fold_ranks
from torchctl.targets import Targets

_SAME_START_S = 1.0  # start times come in clock ticks, and the boot time they count from is rounded


class HasRank(Protocol):
    """What every answer tells: the rank that gave it."""

    @property
    def rank(self) -> int | None: ...


T = TypeVar("T", bound=HasRank)


@dataclass(frozen=True, slots=True)
class Survey(Generic[T]):
    """What came of asking all workers.

    Attributes:
        outcomes: one per worker asked, answers and errors.
        missing_ranks: ranks given with --ranks that no worker claims.
        notes: for stderr; what was left aside, and why.
        from_store: the workers were looked up in a store, where not found means not registered.
        not_found: per job the ranks below its world size of which nothing was found; see `absent_ranks`.
    """

    outcomes: list[Outcome[T]]
    missing_ranks: list[int]
    notes: list[str]
    not_found: dict[str | None, list[int]] = field(default_factory=dict)
    from_store: bool = False

    @property
    def answers(self) -> list[tuple[Endpoint, T]]:
        """The answers, by rank; unknown ranks last."""
        pairs = [(outcome.endpoint, outcome.value) for outcome in self.outcomes if outcome.value is not None]
        return sorted(pairs, key=lambda pair: (pair[1].rank is None, pair[1].rank or 0))

    @property
    def answered(self) -> list[Outcome[T]]:
        """The outcomes with an answer, by rank; unknown ranks last."""
        found = [outcome for outcome in self.outcomes if outcome.value is not None]
        return sorted(found, key=lambda one: (rank_of(one) is None, rank_of(one) or 0))

    @property
    def exit_code(self) -> int:
        """0 when all answered; the failures' own code when all failed alike; 130 when interrupted; else 3.

        A worker whose sentinel has answered in its place has not answered.
        Ranks that were merely not found leave it alone: they may run on hosts that nobody asked for.
        """
        code = exit_code(self.outcomes)
        incomplete = self.missing_ranks or any(one.identity.degraded is not None for one in self.outcomes)
        return EXIT_UNREACHABLE if incomplete and code == EXIT_OK else code


def survey(targets: Targets, ask: Callable[[Endpoint, float], T]) -> Survey[T]:
    """Ask every worker that the options name; `ask` as in `fanout.ask_all`.

    Raises:
        NoWorkersError: there is nobody to ask.
        RuntimeDirError: the runtime folder cannot be trusted.
    """
    endpoints = targets.endpoints()
    if targets.ranks is not None:
        endpoints = _of_ranks(endpoints, targets)
    asked = _ask_everywhere(endpoints, ask, targets)
    asked += [
        Outcome(Endpoint(rank=error.rank), None, error)
        for error in targets.errors
        if targets.ranks is None or error.rank in targets.ranks
    ]
    outcomes, notes = _of_job(asked, targets.job)
    outcomes, leftovers = _without_leftovers(outcomes)
    _explain(outcomes)
    if leftovers:
        notes.append(f"left aside: {len(leftovers)} socket(s) of ended workers ({_names(leftovers)})")
    if not outcomes and not targets.ranks:
        raise NoWorkersError(f"no live worker in {runtimedir.runtime_dir()}; {'; '.join(notes)}")
    missing = _unclaimed(targets.ranks or [], outcomes)
    if missing and len(missing) == len(targets.ranks or []):
        raise NoWorkersError(f"no worker found for rank {fold_ranks(missing)}", hint="`torchctl ps` lists the workers")
    whole = targets.ranks is None and not targets.names_one(endpoints)
    absent = absent_ranks(outcomes) if whole else {}
    return Survey(outcomes, missing, notes + _oddities(outcomes), absent, targets.store is not None)


def _explain(outcomes: Sequence[Outcome[T]]) -> None:
    failures = [(one.endpoint, one.error) for one in outcomes if one.error is not None and not one.endpoint.node]
    if failures:
        from torchctl.causes import explain

        explain(failures)


def _ask_everywhere(
    endpoints: list[Endpoint], ask: Callable[[Endpoint, float], T], targets: Targets
) -> list[Outcome[T]]:
    """Ask the workers that can be reached from here, and at the same time the relays of other hosts."""
    here: list[Outcome[T]] = []

    def ask_here() -> None:
        here.extend(ask_all(endpoints, ask, targets.deadline, jobs=targets.jobs, progress=targets.progress))

    if not targets.nodes:
        ask_here()
        return here
    if not isinstance(ask, Question):
        raise TorchctlError("this command cannot ask workers of other hosts", hint="leave --nodes out")
    from torchctl.nodes import ask_nodes

    thread = threading.Thread(target=ask_here, daemon=True)
    if endpoints:
        thread.start()
    there = ask_nodes(
        targets.nodes,
        ask,
        targets.deadline,
        via=targets.via,
        remote=targets.remote,
        ranks=targets.ranks,
        job=targets.job,
        jobs=targets.jobs,
        progress=targets.progress,
    )
    if endpoints:
        thread.join()
    return here + there


def rank_of(outcome: Outcome[T]) -> int | None:
    """Return whose outcome it is: the answer's rank, else the error's, else the one its address promises."""
    if outcome.value is not None:
        return outcome.value.rank
    rank = None if outcome.error is None else outcome.error.rank
    return outcome.endpoint.rank if rank is None else rank


def absent_ranks(outcomes: Sequence[Outcome[T]]) -> dict[str | None, list[int]]:
    """Return, per job, the ranks below the world size that its workers report which nobody claims; empty jobs left out.

    A failure whose rank is known counts as found. One whose rank is unknown may be any of them.
    """
    worlds = _worlds(outcomes)
    failed = {rank_of(outcome) for outcome in outcomes if outcome.value is None}
    absent = {}
    for job, size in worlds.items():
        present = {rank_of(one) for one in outcomes if one.value is not None and one.identity.job_id == job}
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


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: int | None


@Question
def _claim(endpoint: Endpoint) -> Steps[_Claim]:
    return _Claim((yield ask_handler("ping", max_bytes=1024)).rank)


def _of_ranks(endpoints: list[Endpoint], targets: Targets) -> list[Endpoint]:
    """Return the workers of the ranks asked for; the silent ones too, unless everybody is accounted for.

    A worker's rank is its own answer to a ping, for which half of the time is allowed; a socket's name
    speaks for one that does not answer.
    """
    wanted = set(targets.ranks or [])
    half = time.monotonic() + (targets.deadline - time.monotonic()) / 2
    known, silent = [], []
    for outcome in ask_all(endpoints, _claim, half, jobs=targets.jobs, progress=targets.progress):
        if outcome.value is None:
            silent.append(outcome.endpoint)
        elif outcome.value.rank in wanted:
            known.append(replace(outcome.endpoint, rank=outcome.value.rank))
    accounted = {endpoint.rank for endpoint in known} | {endpoint.rank for endpoint in silent}
    maybe = [endpoint for endpoint in silent if endpoint.rank in wanted]
    if not wanted <= accounted:
        maybe += [endpoint for endpoint in silent if endpoint.rank is None]
    return known + maybe


def _of_job(outcomes: list[Outcome[T]], job: str | None) -> tuple[list[Outcome[T]], list[str]]:
    """Return the outcomes of one job, and those without an answer, which may belong to it."""
    if job is None:
        return list(outcomes), []
    kept = [one for one in outcomes if one.value is None or one.identity.job_id == job]
    left = len(outcomes) - len(kept)
    return kept, [f"left aside: {left} worker(s) of other jobs, or that do not tell theirs"] if left else []


def _without_leftovers(outcomes: Sequence[Outcome[T]]) -> tuple[list[Outcome[T]], list[Endpoint]]:
    """Part what was asked from dead sockets in the runtime folder that nobody named.

    The socket of a killed rank is no leftover: a live worker reports a world to which that rank belongs, and nobody
    else claims it.
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
            alive.add(rank if _is_dead(one) else None)  # of two dead sockets of one rank, one tells enough
    return kept, leftovers


def _is_dead(outcome: Outcome[T]) -> bool:
    return outcome.endpoint.found and isinstance(outcome.error, RefusedError | NoSuchSocketError)


def _unclaimed(ranks: list[int], outcomes: Iterable[Outcome[T]]) -> list[int]:
    claimed = set()
    for outcome in outcomes:
        claimed.add(outcome.value.rank if outcome.value is not None else outcome.endpoint.rank)
    return [rank for rank in ranks if rank not in claimed]


def _oddities(outcomes: Sequence[Outcome[T]]) -> list[str]:
    """Return notes on workers of several jobs, and on ranks that two workers of a job claim."""
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
    """Return a note when a store's address leads to another worker than the one that registered it."""
    if one.endpoint.process is None or one.value is None:
        return ""
    pid, started = one.endpoint.process
    began = getattr(one.value, "start_time", None)
    same = one.identity.pid in (None, pid) and (began is None or abs(began - started) < _SAME_START_S)
    if same and one.value.rank in (None, one.endpoint.rank):
        return ""
    who = "another process" if one.value.rank is None else f"rank {one.value.rank}"
    return (
        f"rank {one.endpoint.rank}: the store's address {one.endpoint} is from before a restart: "
        f"pid {pid} had registered it, {who} with pid {one.identity.pid} answers"
    )


def _names(endpoints: list[Endpoint]) -> str:
    shown = [os.path.basename(endpoint.path) for endpoint in endpoints[:3]]
    return ", ".join([*shown, "..."] if len(endpoints) > len(shown) else shown)
