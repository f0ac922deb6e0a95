"""Many workers, one deadline: an answer or an error from each.

How this works: one worker is asked in place. Several are asked by `many`, all at once on one thread, when the
question is a `Question`. Any other callable gets a daemon thread per worker (what it does, a name's
look-up for one, cannot be interrupted and must not outlive the deadline); the caller waits with a limit, and what has
not come by then is a `DeadlineError`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torchctl.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    DeadlineError,
    StoppedError,
    WorkerError,
)
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.workers.ask.question import Question
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")
_GRACE_S = 0.1  # for a thread whose socket hits the deadline to say so in its own, more exact words
_MAX_THREADS = 64
_PROCESSES = 8  # py-spys at a time: each is a process that reads another's memory


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of asking one worker: exactly one of `value` and `error`.

    Attributes:
        identity: who it said it is, in its last answer; all None where nothing was said.
    """

    endpoint: Endpoint
    value: T | None
    error: WorkerError | None
    identity: Identity = NOBODY


class Progress(Protocol):
    """Is told how far the asking has come."""

    def update(self, done: int, total: int, slowest: str) -> None:
        """Take the number of workers done, of all, and the name of the one waited for the longest."""

    def close(self) -> None:
        """Take back what was shown."""


def ask_all(
    endpoints: Sequence[Endpoint],
    ask: Callable[[Endpoint, float], T],
    deadline: float,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Outcome[T]]:
    """Ask every worker at once and return one outcome per endpoint, in their order.

    Args:
        endpoints: whom to ask.
        ask: a `Question`; or any callable, called with an endpoint and the deadline on a thread of its own, that
            returns its value or raises WorkerError.
        deadline: `time.monotonic` seconds; nothing is waited for longer.
        jobs: how many are asked at the same time; by default all, as far as descriptors reach.
        progress: told while answers come in, where there are several workers.
    """
    if len(endpoints) == 1 and endpoints[0].path:
        return [ask_one(endpoints[0], ask, deadline)]
    if not isinstance(ask, Question) or len(endpoints) == 1:
        return _Threads(endpoints, ask, deadline, min(jobs or _MAX_THREADS, _MAX_THREADS)).outcomes()
    from torchctl.workers.ask.many import ask_many

    outside = [endpoint for endpoint in endpoints if endpoint.pid is not None]
    looking = _Threads(outside, ask, deadline, min(jobs or _PROCESSES, _PROCESSES)) if outside else None
    workers = [endpoint for endpoint in endpoints if endpoint.pid is None]
    outcomes = ask_many(workers, ask, deadline, jobs=jobs, progress=progress) if workers else []
    if looking is None:
        return outcomes
    by_endpoint = {one.endpoint: one for one in [*outcomes, *looking.outcomes()]}
    return [by_endpoint[endpoint] for endpoint in endpoints]


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """Return 0 when all answered, the failures' own code when all failed alike, 130 when interrupted, else 3."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return EXIT_OK
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    all_failed = all(outcome.error is not None for outcome in outcomes)
    return codes.pop() if all_failed and len(codes) == 1 else EXIT_UNREACHABLE


def ask_one(endpoint: Endpoint, ask: Callable[[Endpoint, float], T], deadline: float) -> Outcome[T]:
    """Ask one worker here and now; whatever goes wrong is the outcome's error."""
    try:
        if isinstance(ask, Question):
            conversation = ask.converse(endpoint, deadline)
            return Outcome(endpoint, conversation.value, None, conversation.identity)
        return Outcome(endpoint, ask(endpoint, deadline), None)
    except WorkerError as error:
        return Outcome(endpoint, None, error)
    except KeyboardInterrupt:
        return Outcome(endpoint, None, stopped(endpoint))
    except Exception as error:  # a defect of ours with one worker must not hide the others' answers
        return Outcome(endpoint, None, defect(endpoint, error))


def stopped(endpoint: Endpoint) -> WorkerError:
    """Return the error for a worker that Ctrl-C came before."""
    words = "had not answered when the command was interrupted"
    return StoppedError(words, endpoint=str(endpoint), rank=endpoint.rank)


def is_stopped(outcomes: Sequence[Outcome[Any]]) -> bool:
    """Whether Ctrl-C came before all had answered."""
    return any(isinstance(one.error, StoppedError) for one in outcomes)


def defect(endpoint: Endpoint, error: Exception) -> WorkerError:
    """Return the error that stands for a mistake of our own."""
    text = f"could not be asked: {type(error).__name__}: {error}"
    return WorkerError(text, endpoint=str(endpoint), rank=endpoint.rank)


class _Threads(Generic[T]):
    """Asks on daemon threads from now on; `outcomes` waits for them, until the deadline."""

    def __init__(
        self, endpoints: Sequence[Endpoint], ask: Callable[[Endpoint, float], T], deadline: float, threads: int
    ) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._deadline = deadline
        self._found: list[Outcome[T] | None] = [None] * len(endpoints)
        self._queue = iter(range(len(endpoints)))
        self._lock = threading.Lock()
        self._finished = threading.Semaphore(0)
        for _ in range(min(len(endpoints), threads)):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                index = next(self._queue, None)
            if index is None:
                return
            try:
                self._found[index] = ask_one(self._endpoints[index], self._ask, self._deadline)
            finally:
                self._finished.release()

    def outcomes(self) -> list[Outcome[T]]:
        """Return one outcome per endpoint; Ctrl-C ends the waiting."""
        error: Callable[[Endpoint], WorkerError] = _late
        try:
            for _ in self._endpoints:
                if not self._finished.acquire(timeout=max(0.0, self._deadline + _GRACE_S - time.monotonic())):
                    break
        except KeyboardInterrupt:
            error = stopped
        return [
            outcome or Outcome(endpoint, None, error(endpoint))
            for outcome, endpoint in zip(self._found, self._endpoints, strict=True)
        ]


def _late(endpoint: Endpoint) -> WorkerError:
    return DeadlineError("gave no answer before the deadline", endpoint=str(endpoint), rank=endpoint.rank)
