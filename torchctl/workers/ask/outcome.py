"""What came of asking one worker: a value or a typed failure; and what the outcomes of many amount to. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torchctl.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    DeadlineError,
    StoppedError,
    WorkerError,
)
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of asking one worker: exactly one of `value` and `error`.

    Attributes:
        identity: who it said it is, in its last reply; all None if it said nothing.
    """

    endpoint: Endpoint
    value: T | None
    error: WorkerError | None
    identity: Identity = NOBODY


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """Return 0 when all answered, the failures' own code when all failed alike, 130 when interrupted, else 3."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return EXIT_OK
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    all_failed = all(outcome.error is not None for outcome in outcomes)
    return codes.pop() if all_failed and len(codes) == 1 else EXIT_UNREACHABLE


def is_stopped(outcomes: Sequence[Outcome[Any]]) -> bool:
    """Whether Ctrl-C came before all had answered."""
    return any(isinstance(one.error, StoppedError) for one in outcomes)


def stopped(endpoint: Endpoint) -> WorkerError:
    """Return the error for a worker that had not answered when Ctrl-C came."""
    words = "had not answered when the command was interrupted"
    return StoppedError(words, endpoint=str(endpoint), rank=endpoint.rank)


def late(endpoint: Endpoint) -> WorkerError:
    """Return the error for a worker of which nothing is known but that the deadline came."""
    return DeadlineError("gave no answer before the deadline", endpoint=str(endpoint), rank=endpoint.rank)


def defect(endpoint: Endpoint, error: Exception) -> WorkerError:
    """Return the error for a mistake of our own."""
    text = f"could not be asked: {type(error).__name__}: {error}"
    return WorkerError(text, endpoint=str(endpoint), rank=endpoint.rank)
