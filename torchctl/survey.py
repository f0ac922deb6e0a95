"""What came of asking the workers that the options name: one outcome per worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from torchctl import runtimedir
from torchctl.client import call
from torchctl.endpoint import Endpoint
from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, NoSuchSocketError, NoWorkersError, RefusedError
from torchctl.fanout import Outcome, ask_all, exit_code
from torchctl.ranks import fold_ranks
from torchctl.targets import Targets


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
    """

    outcomes: list[Outcome[T]]
    missing_ranks: list[int]
    notes: list[str]

    @property
    def answers(self) -> list[tuple[Endpoint, T]]:
        """The answers, by rank; unknown ranks last."""
        pairs = [(outcome.endpoint, outcome.value) for outcome in self.outcomes if outcome.value is not None]
        return sorted(pairs, key=lambda pair: (pair[1].rank is None, pair[1].rank or 0))

    @property
    def exit_code(self) -> int:
        """0 when all answered; the failures' own code when all failed alike; else 3."""
        code = exit_code(self.outcomes)
        return EXIT_UNREACHABLE if self.missing_ranks and code == EXIT_OK else code


def survey(targets: Targets, ask: Callable[[Endpoint, float], T]) -> Survey[T]:
    """Ask every worker that the options name; `ask` as in `fanout.ask_all`.

    Raises:
        NoWorkersError: there is nobody to ask.
        RuntimeDirError: the runtime folder cannot be trusted.
    """
    endpoints = targets.endpoints()
    if targets.ranks is not None:
        endpoints = _of_ranks(endpoints, targets)
    outcomes, leftovers = _without_leftovers(ask_all(endpoints, ask, targets.deadline))
    notes = [f"left aside: {len(leftovers)} socket(s) of ended workers ({_names(leftovers)})"] if leftovers else []
    if not outcomes and not targets.ranks:
        raise NoWorkersError(f"no live worker in {runtimedir.runtime_dir()}; {notes[0]}")
    missing = _unclaimed(targets.ranks or [], outcomes)
    if missing and len(missing) == len(targets.ranks or []):
        raise NoWorkersError(f"no worker found for rank {fold_ranks(missing)}", hint="`torchctl ps` lists the workers")
    return Survey(outcomes, missing, notes)


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: int | None


def _of_ranks(endpoints: list[Endpoint], targets: Targets) -> list[Endpoint]:
    """Return the workers of the ranks asked for; the silent ones too, unless everybody is accounted for.

    A worker's rank is its own answer to a ping, for which half of the time is allowed; a socket's name
    speaks for one that does not answer.
    """

    def claim(endpoint: Endpoint, deadline: float) -> _Claim:
        return _Claim(call(endpoint, "ping", deadline, max_bytes=1024).rank)

    wanted = set(targets.ranks or [])
    half = time.monotonic() + (targets.deadline - time.monotonic()) / 2
    known, silent = [], []
    for outcome in ask_all(endpoints, claim, half):
        if outcome.value is None:
            silent.append(outcome.endpoint)
        elif outcome.value.rank in wanted:
            known.append(replace(outcome.endpoint, rank=outcome.value.rank))
    accounted = {endpoint.rank for endpoint in known} | {endpoint.rank for endpoint in silent}
    maybe = [endpoint for endpoint in silent if endpoint.rank in wanted]
    if not wanted <= accounted:
        maybe += [endpoint for endpoint in silent if endpoint.rank is None]
    return known + maybe


def _without_leftovers(outcomes: Iterable[Outcome[T]]) -> tuple[list[Outcome[T]], list[Endpoint]]:
    """Part what was asked from sockets in the runtime folder that nobody named and nobody listens on."""
    kept, leftovers = [], []
    for outcome in outcomes:
        if outcome.endpoint.found and isinstance(outcome.error, RefusedError | NoSuchSocketError):
            leftovers.append(outcome.endpoint)
        else:
            kept.append(outcome)
    return kept, leftovers


def _unclaimed(ranks: list[int], outcomes: Iterable[Outcome[T]]) -> list[int]:
    claimed = set()
    for outcome in outcomes:
        claimed.add(outcome.value.rank if outcome.value is not None else outcome.endpoint.rank)
    return [rank for rank in ranks if rank not in claimed]


def _names(endpoints: list[Endpoint]) -> str:
    shown = [os.path.basename(endpoint.path) for endpoint in endpoints[:3]]
    return ", ".join([*shown, "..."] if len(endpoints) > len(shown) else shown)
