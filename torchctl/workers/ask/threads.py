"""Conversations on daemon threads, for what blocks: one worker over urllib3, processes that py-spy reads.

How this works: the look-up of a name cannot be interrupted and knows no deadline. So the work is done on threads that
may be left behind, and the caller waits for them with a limit. Python raises Ctrl-C on the main thread, whatever that
is running: here it is this wait, and never the HTTP client, whose finalisers complain of an object that is half made.
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
_GRACE_S = 0.5  # at most, for a thread whose socket hits the deadline to say so in its own, more exact words

# Carries one request to one worker, by a deadline in `time.monotonic` seconds; raises WorkerError.
Send = Callable[[Endpoint, Request, float], Reply]


class Threads:
    """A transport that asks by a function that blocks.

    Args:
        send: carries one request.
        most: threads at a time.
    """

    def __init__(self, send: Send, most: int) -> None:
        self._send = send
        self._most = most
        self._progressed = threading.Semaphore(0)  # a worker is done, or all is to stop
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
                raise  # the asking was over: it is for the caller
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
    """Who is still to be asked, and what came of the others."""

    def __init__(self, endpoints: Sequence[Endpoint], question: Question[T]) -> None:
        self.endpoints = endpoints
        self.question = question
        self.found: list[Outcome[T] | None] = [None] * len(endpoints)
        self._indexes = iter(range(len(endpoints)))
        self._lock = threading.Lock()

    def next(self) -> int | None:
        """Return the index of the next endpoint; None when there is none left."""
        with self._lock:
            return next(self._indexes, None)


def converse(endpoint: Endpoint, question: Question[T], send: Callable[[Request], Reply]) -> Outcome[T]:
    """Hold one worker's whole conversation, one request after the other."""
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
    except Exception as error:  # a defect of ours with one worker must not hide the others' answers
        return Outcome(endpoint, None, defect(endpoint, error))
    return Outcome(endpoint, conversation.value, None, conversation.identity)
