"""What every way of asking has in common: a question goes in, and one outcome per worker comes out in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from torchctl.errors import WorkerError
from torchctl.workers.ask.outcome import Outcome, defect
from torchctl.workers.ask.question import Conversation, Question, Request
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")

# Carries one request to one worker, by a deadline in `time.monotonic` seconds; raises WorkerError.
Send = Callable[[Endpoint, Request, float], Reply]


class Transport(Protocol):
    """Carries one question to workers. `fanout` picks it; no question knows which it is."""

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        """Ask every worker and return one outcome per endpoint, in their order; Ctrl-C ends the asking.

        A relay's endpoint is a host, and gives one outcome for each of its workers.

        Args:
            deadline: `time.monotonic` seconds; nothing is waited for longer.
        """

    def stop(self) -> None:
        """Let `ask`, on another thread, return what it has."""


class Progress(Protocol):
    """Shows how far the asking has come."""

    def update(self, done: int, total: int, slowest: str) -> None:
        """Take the number of workers done, of all, and the name of the one waited for the longest."""

    def close(self) -> None:
        """Take back what was shown."""


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
