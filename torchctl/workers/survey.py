"""Ask every worker of a roll one question, and report one outcome per worker and the missing ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from torchctl.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE, NoWorkersError, TorchctlError
from torchctl.protocol import runtimedir
from torchctl.ranks import fold_ranks
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.outcome import Outcome, exit_code, is_stopped, stopped
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.request import handler_request
from torchctl.workers.ask.transport import Transport
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.roll import Roll
from torchctl.workers.rollcall import (
    HasRank,
    absent_ranks,
    ended,
    oddities,
    of_job,
    rank_of,
    unclaimed,
    without_leftovers,
)

T = TypeVar("T", bound=HasRank)


@dataclass(frozen=True, slots=True)
class Survey(Generic[T]):
    """The result of asking all workers.

    Attributes:
        outcomes: one per worker asked, answers and errors.
        missing_ranks: ranks given with --ranks that no worker claims.
        notes: what was ignored and why, for stderr.
        from_store: the workers were looked up in a store, where not found means not registered.
        interrupted: Ctrl-C came after all had answered but before everything had been asked.
        not_found: per job, the ranks within its world size that were not found; see `absent_ranks`.
    """

    outcomes: list[Outcome[T]]
    missing_ranks: list[int]
    notes: list[str]
    not_found: dict[str | None, list[int]] = field(default_factory=dict)
    from_store: bool = False
    interrupted: bool = False

    @property
    def answers(self) -> list[tuple[Endpoint, T]]:
        """Return the answers, by rank; unknown ranks last."""
        pairs = [(outcome.endpoint, outcome.value) for outcome in self.outcomes if outcome.value is not None]
        return sorted(pairs, key=lambda pair: (pair[1].rank is None, pair[1].rank or 0))

    @property
    def answered(self) -> list[Outcome[T]]:
        """Return the outcomes with an answer, by rank; unknown ranks last."""
        found = [outcome for outcome in self.outcomes if outcome.value is not None]
        return sorted(found, key=lambda one: (rank_of(one) is None, rank_of(one) or 0))

    @property
    def exit_code(self) -> int:
        """Return 0 if all answered, the failures' code if all failed alike, 130 if interrupted, else 3.

        A worker whose sentinel answered for it counts as not answering. A rank that was not found counts as missing
        only if the operator named it, with --ranks or by naming the store of the whole job. Other ranks do not affect
        the code: they may run on hosts that were not asked.
        """
        if self.interrupted:
            return EXIT_INTERRUPTED
        code = exit_code(self.outcomes)
        named = self.missing_ranks or (self.from_store and self.not_found)
        incomplete = named or any(one.identity.degraded is not None for one in self.outcomes)
        return EXIT_UNREACHABLE if incomplete and code == EXIT_OK else code


def survey(roll: Roll, question: Question[T]) -> Survey[T]:
    """Ask every worker of a roll one question.

    Raises:
        NoWorkersError: no worker is left: none has a selected rank, or none is alive.
        TorchctlError: workers on other hosts were named, and cannot be asked from here.
    """
    targets = roll.targets
    relays = _relays(roll, question)
    endpoints, interrupted = (roll.endpoints, False) if roll.ranks is None else _of_ranks(roll)
    if interrupted:
        asked: list[Outcome[T]] = [Outcome(endpoint, None, stopped(endpoint)) for endpoint in endpoints]
    else:
        shown = targets.progress if relays is None else None  # otherwise the relays show it
        asked = ask_all(endpoints, question, roll.deadline, jobs=targets.jobs, progress=shown, relays=relays)
    asked += [
        Outcome(Endpoint(rank=error.rank, source="--store"), None, error)
        for error in roll.errors
        if roll.ranks is None or error.rank in roll.ranks
    ]
    outcomes, notes = of_job(asked, targets.job)
    outcomes, leftovers = without_leftovers(outcomes)
    _explain(outcomes)
    if leftovers:
        notes.append(ended(leftovers))
    if not outcomes and not roll.ranks:
        raise NoWorkersError(f"no live worker in {runtimedir.runtime_dir()}; {'; '.join(notes)}")
    missing = unclaimed(roll.ranks or [], outcomes)
    if missing and len(missing) == len(roll.ranks or []):
        raise NoWorkersError(f"no worker found for rank {fold_ranks(missing)}", hint="`torchctl ps` lists the workers")
    absent = absent_ranks(outcomes) if roll.ranks is None and not roll.names_one else {}
    return Survey(outcomes, missing, notes + oddities(outcomes), absent, targets.store is not None)


def _relays(roll: Roll, question: Question[T]) -> Transport | None:
    """Return the transport for workers on other hosts, or None if the roll has none."""
    if not any(endpoint.node for endpoint in roll.endpoints):
        return None
    if not question.name:
        raise TorchctlError("this command cannot reach workers on other hosts", hint="omit --nodes")
    from torchctl.workers.hosts.nodes import Relays

    targets = roll.targets
    return Relays(
        via=targets.via,
        remote=targets.remote,
        ranks=roll.ranks,
        job=targets.job,
        jobs=targets.jobs,
        progress=targets.progress,
    )


def _explain(outcomes: Sequence[Outcome[T]]) -> None:
    failures = [(one.endpoint, one.error) for one in outcomes if one.error is not None and not one.endpoint.node]
    if failures:
        from torchctl.workers.causes import explain

        explain(failures)


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: int | None


@Question
def _claim(endpoint: Endpoint) -> Asking[_Claim]:
    return _Claim((yield handler_request("ping", max_bytes=1024)).rank)


def _of_ranks(roll: Roll) -> tuple[list[Endpoint], bool]:
    """Return the workers with the selected ranks, and whether Ctrl-C came in the meantime.

    Silent workers without a known rank are included unless all selected ranks are accounted for; so are other hosts,
    whose relays select by rank themselves.

    A worker's rank comes from its answer to a ping, which may take half of the time; if it does not answer, the rank
    comes from its socket's name.
    """
    wanted = set(roll.ranks or [])
    half = time.monotonic() + (roll.deadline - time.monotonic()) / 2
    here = [endpoint for endpoint in roll.endpoints if not endpoint.node]
    hosts = [endpoint for endpoint in roll.endpoints if endpoint.node]
    known, silent = [], []
    outcomes = ask_all(here, _claim, half, jobs=roll.targets.jobs, progress=roll.targets.progress)
    for outcome in outcomes:
        if outcome.value is None:
            silent.append(outcome.endpoint)
        elif outcome.value.rank in wanted:
            known.append(replace(outcome.endpoint, rank=outcome.value.rank))
    accounted = {endpoint.rank for endpoint in known} | {endpoint.rank for endpoint in silent}
    maybe = [endpoint for endpoint in silent if endpoint.rank in wanted]
    if not wanted <= accounted:
        maybe += [endpoint for endpoint in silent if endpoint.rank is None]
    return known + maybe + hosts, is_stopped(outcomes)
