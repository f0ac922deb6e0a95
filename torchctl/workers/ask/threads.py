"""Hold conversations on daemon threads, for blocking transports: one worker over urllib3, and py-spy.

How this works: a name look-up cannot be interrupted and has no deadline. So the work runs on threads that may be left
behind, and the caller waits for them with a limit. Python raises KeyboardInterrupt in whatever the main thread runs:
here that is this wait and never the HTTP client, whose finalizers would complain about a half-built object.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from torchctl.errors import WorkerError
from torchctl.workers.ask.outcome import Outcome, defect, late, stopped
from torchctl.workers.ask.question import Conversation, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")
_GRACE_S = 0.5  # at most; lets a thread whose socket hits the deadline report its own, more exact error

# Sends one request to one worker, with a deadline in `time.monotonic` seconds; raises WorkerError.
Send = Callable[[Endpoint, Request, float], Reply]


class Threads:
    """A transport built on a blocking function.

    Args:
        send: sends one request.
        most: maximum number of threads.
    """

    def __init__(self, send: Send, most: int) -> None:
        self._send = send
        self._most = most
        self._progressed = threading.Semaphore(0)  # released when a worker is done, or on stop
        self._stopped = False

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        queue = _Queue(endpoints, question)
        try:
            for _ in range(min(len(endpoints), self._most)):
                threading.Thread(target=self._work, args=(queue, deadline), daemon=True).start()
            for _ in endpoints:
                if not self._progressed.acquire(timeout=max(0.0, deadline + _GRACE_S - time.monotonic())):
                    break
                if self._stopped:
                    break
        except KeyboardInterrupt:
            if None not in queue.found:
                raise  # everything was answered, so Ctrl-C is for the caller
            self._stopped = True
        error = stopped if self._stopped else late
        return [
            outcome or Outcome(endpoint, None, error(endpoint))
            for outcome, endpoint in zip(queue.found, endpoints, strict=True)
        ]

    def stop(self) -> None:
        self._stopped = True
        self._progressed.release()

    def _work(self, queue: _Queue[T], deadline: float) -> None:
        while not self._stopped and (index := queue.next()) is not None:
            endpoint = queue.endpoints[index]
            try:
                queue.found[index] = converse(endpoint, queue.question, partial(self._carried, endpoint, deadline))
            finally:
                self._progressed.release()

    def _carried(self, endpoint: Endpoint, deadline: float, request: Request) -> Reply:
        return self._send(endpoint, request, deadline)


class _Queue(Generic[T]):
    """The workers still to be asked, and the outcomes so far."""

    def __init__(self, endpoints: Sequence[Endpoint], question: Question[T]) -> None:
        self.endpoints = endpoints
        self.question = question
        self.found: list[Outcome[T] | None] = [None] * len(endpoints)
        self._indexes = iter(range(len(endpoints)))
        self._lock = threading.Lock()

    def next(self) -> int | None:
        """Return the index of the next endpoint, or None if there are none left."""
        with self._lock:
            return next(self._indexes, None)


def converse(endpoint: Endpoint, question: Question[T], send: Callable[[Request], Reply]) -> Outcome[T]:
    """Hold the whole conversation with one worker, one request at a time."""
    conversation = Conversation(question, endpoint)
    try:
        request = conversation.begin()
        while request is not None:
            try:
                reply = send(request)
            except WorkerError as error:
                request = conversation.fail(error)
            else:
                request = conversation.answer(reply)
    except WorkerError as error:
        return Outcome(endpoint, None, error, conversation.identity)
    except Exception as error:  # a bug with one worker must not hide the others' answers
        return Outcome(endpoint, None, defect(endpoint, error))
    return Outcome(endpoint, conversation.value, None, conversation.identity)
