"""A question to a worker: the requests it sends and how it handles the replies, independent of the transport.

How this works: a question is a generator that yields requests and is sent replies. It may send further requests
depending on the replies (a handler may be missing on torch's own server). A transport does the I/O and does not know
the question, and a question does not know the transport. So each question is written once, and works for one worker,
for thousands, and on other hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from torchctl.errors import WorkerError
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.workers.ask.reply import Reply, failure
from torchctl.workers.ask.request import Request
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")


# The generator that a question's function returns: it yields requests, is sent replies, and returns the value.
Asking = Generator[Request, Reply, T]


class Question(Generic[T]):
    """Wraps a generator function, possibly as a decorator; `ask.fanout` asks it.

    Args:
        ask: called with the endpoint, for its errors; yields `Request` and is sent `Reply`.

    Attributes:
        name, arguments: identify the question to `torchctl relay` on another host; "" if relays cannot ask it.
    """

    name = ""

    def __init__(self, ask: Callable[[Endpoint], Asking[T]]) -> None:
        self.ask = ask
        self.__doc__ = ask.__doc__
        self.arguments: dict[str, Any] = {}

    def arguments_on(self, host: str) -> dict[str, Any]:
        """Return the arguments for the relay on one host."""
        return self.arguments


class Conversation(Generic[T]):
    """A question in progress with one worker: call `begin`, then `answer` or `fail` until they return None.

    Attributes:
        last: the latest reply.
    """

    def __init__(self, question: Question[T], endpoint: Endpoint) -> None:
        self._asking = question.ask(endpoint)
        self._endpoint = endpoint
        self._request: Request | None = None
        self._value: list[T] = []
        self.last: Reply | None = None

    @property
    def value(self) -> T:
        return self._value[0]

    @property
    def identity(self) -> Identity:
        """Return the identity that the worker reported."""
        return NOBODY if self.last is None else self.last.identity

    def begin(self) -> Request | None:
        """Return the first request."""
        return self._advance(lambda: next(self._asking))

    def answer(self, reply: Reply) -> Request | None:
        """Handle a reply and return the next request, or None once `value` is set.

        Raises:
            WorkerError: the reply is an error that the question does not handle, or is malformed.
        """
        self.last = reply
        assert self._request is not None
        if self._request.handler and reply.status != 200:
            return self.fail(failure(self._endpoint, self._request.handler, reply))
        return self._advance(lambda: self._asking.send(reply))

    def fail(self, error: WorkerError) -> Request | None:
        """Handle a failed request; otherwise like `answer`."""
        return self._advance(lambda: self._asking.throw(error))

    def _advance(self, step: Callable[[], Request]) -> Request | None:
        try:
            self._request = step()
        except StopIteration as stop:
            self._request = None
            self._value.append(stop.value)
        return self._request
