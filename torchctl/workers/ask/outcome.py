"""The outcome of asking one worker, a value or a typed failure, and the exit code for many outcomes. No I/O."""

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
    """The outcome of asking one worker: exactly one of `value` and `error`.

    Attributes:
        identity: the worker's identity according to its last reply; all None if it never replied.
    """

    endpoint: Endpoint
    value: T | None
    error: WorkerError | None
    identity: Identity = NOBODY


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """Return 0 if all answered, the failures' code if all failed alike, 130 if interrupted, else 3."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return EXIT_OK
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    all_failed = all(outcome.error is not None for outcome in outcomes)
    return codes.pop() if all_failed and len(codes) == 1 else EXIT_UNREACHABLE


def is_stopped(outcomes: Sequence[Outcome[Any]]) -> bool:
    """Return whether Ctrl-C came before all had answered."""
    return any(isinstance(one.error, StoppedError) for one in outcomes)


def stopped(endpoint: Endpoint) -> WorkerError:
    """Return the error for a worker that had not answered when Ctrl-C came."""
    words = "had not answered when the command was interrupted"
    return StoppedError(words, endpoint=str(endpoint), rank=endpoint.rank)


def late(endpoint: Endpoint) -> WorkerError:
    """Return the error for a worker that missed the deadline, with nothing else known about it."""
    return DeadlineError("gave no answer before the deadline", endpoint=str(endpoint), rank=endpoint.rank)


def defect(endpoint: Endpoint, error: Exception) -> WorkerError:
    """Return the error for a bug in torchctl."""
    text = f"could not be asked: {type(error).__name__}: {error}"
    return WorkerError(text, endpoint=str(endpoint), rank=endpoint.rank)
