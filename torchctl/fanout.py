"""Many workers, one deadline: an answer or an error from each.

How this works: one daemon thread per worker (a name lookup cannot be interrupted, and must not outlive the
deadline), the caller waits with a limit, and what has not come by then is a `DeadlineError`. One worker
behind a Unix socket is asked without a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torchctl.endpoint import Endpoint
from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, DeadlineError, WorkerError

T = TypeVar("T")
_GRACE_S = 0.1  # for a thread whose socket hits the deadline to say so in its own, more exact words
_MAX_THREADS = 1024  # no worker waits in a queue while its own time runs


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of asking one worker: exactly one of `value` and `error`."""

    endpoint: Endpoint
    value: T | None
    error: WorkerError | None


def ask_all(endpoints: Sequence[Endpoint], ask: Callable[[Endpoint, float], T], deadline: float) -> list[Outcome[T]]:
    """Ask every worker at once and return one outcome per endpoint, in their order.

    Args:
        endpoints: whom to ask.
        ask: called with an endpoint and the deadline; returns its value or raises WorkerError.
        deadline: `time.monotonic` seconds; nothing is waited for longer.
    """
    if len(endpoints) == 1 and endpoints[0].path:
        return [_ask(endpoints[0], ask, deadline)]
    outcomes: list[Outcome[T] | None] = [None] * len(endpoints)
    queue = iter(range(len(endpoints)))
    lock = threading.Lock()
    finished = threading.Semaphore(0)

    def work() -> None:
        while True:
            with lock:
                index = next(queue, None)
            if index is None:
                return
            try:
                outcomes[index] = _ask(endpoints[index], ask, deadline)
            finally:
                finished.release()

    for _ in range(min(len(endpoints), _MAX_THREADS)):
        threading.Thread(target=work, daemon=True).start()
    for _ in endpoints:
        if not finished.acquire(timeout=max(0.0, deadline + _GRACE_S - time.monotonic())):
            break
    return [
        outcome if outcome is not None else Outcome(endpoint, None, _silent(endpoint))
        for outcome, endpoint in zip(outcomes, endpoints, strict=True)
    ]


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """Return 0 when all answered, the failures' own code when all failed alike, else 3."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return EXIT_OK
    all_failed = all(outcome.error is not None for outcome in outcomes)
    return codes.pop() if all_failed and len(codes) == 1 else EXIT_UNREACHABLE


def _ask(endpoint: Endpoint, ask: Callable[[Endpoint, float], T], deadline: float) -> Outcome[T]:
    try:
        return Outcome(endpoint, ask(endpoint, deadline), None)
    except WorkerError as error:
        return Outcome(endpoint, None, error)
    except Exception as error:  # a defect of ours with one worker must not hide the others' answers
        text = f"could not be asked: {type(error).__name__}: {error}"
        return Outcome(endpoint, None, WorkerError(text, endpoint=str(endpoint), rank=endpoint.rank))


def _silent(endpoint: Endpoint) -> WorkerError:
    return DeadlineError("gave no answer before the deadline", endpoint=str(endpoint), rank=endpoint.rank)
