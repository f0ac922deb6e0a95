"""A question to a worker: the requests it takes and what becomes of the answers, without saying how they travel.

How this works: a question is written as a generator that yields requests and is sent replies. It may ask again by
what it learns (a handler may be missing on torch's own server). Whoever runs it does the I/O: `client` for one
worker, `many` for thousands at once, `relay` on another host. So each question is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from torchctl import protocol
from torchctl.errors import WorkerError
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.workers.ask.reply import Reply, failure
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")


class Ask(NamedTuple):
    """One request.

    Attributes:
        handler: the handler's name; "" for a path of its own.
        path: with its query.
        max_bytes: limit of the answer's body.
    """

    method: str
    path: str
    handler: str = ""
    body: bytes = b""
    max_bytes: int = protocol.MAX_REPLY_BYTES


Steps = Generator[Ask, Reply, T]


def ask_handler(
    handler: str,
    params: Mapping[str, str] | None = None,
    *,
    body: bytes = b"",
    max_bytes: int = protocol.MAX_REPLY_BYTES,
) -> Ask:
    """Return the request that calls a handler; an answer other than 200 is raised where the request was yielded."""
    query = f"?{urlencode(params)}" if params else ""
    return Ask("POST", f"{protocol.HANDLER_PATH}{quote(handler, safe='')}{query}", handler, body, max_bytes)


class Question(Generic[T]):
    """Wraps the generator function; called as ``question(endpoint, deadline)`` it asks one worker and returns.

    Args:
        steps: called with the endpoint, for its errors; yields `Ask` and is sent `Reply`.

    Attributes:
        name, arguments: by which `torchctl relay` on another host asks the same; "" for one it cannot ask.
    """

    name = ""

    def __init__(self, steps: Callable[[Endpoint], Steps[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__
        self.arguments: dict[str, Any] = {}

    def arguments_on(self, host: str) -> dict[str, Any]:
        """Return the arguments for the relay of one host."""
        return self.arguments

    def __call__(self, endpoint: Endpoint, deadline: float) -> T:
        return self.converse(endpoint, deadline).value

    def converse(self, endpoint: Endpoint, deadline: float) -> Conversation[T]:
        """Ask one worker and return the finished conversation.

        Raises:
            WorkerError: as `client.request`, and what the question itself raises.
        """
        conversation = Conversation(self, endpoint)
        ask = conversation.begin()
        while ask is not None:
            try:
                reply = _send(endpoint, ask, deadline)
            except WorkerError as error:
                ask = conversation.fail(error)
            else:
                ask = conversation.answer(reply)
        return conversation


def _send(endpoint: Endpoint, ask: Ask, deadline: float) -> Reply:
    if endpoint.pid is not None:
        from torchctl.workers.ask.outside import ask_process

        return ask_process(endpoint, ask, deadline)
    from torchctl.workers.ask.one import request

    return request(endpoint, ask.method, ask.path, deadline, body=ask.body, max_bytes=ask.max_bytes)


class Conversation(Generic[T]):
    """One worker's run of a question, step by step: `begin`, then `answer` or `fail` until they return None.

    Attributes:
        last: the latest reply.
    """

    def __init__(self, question: Question[T], endpoint: Endpoint) -> None:
        self._steps = question.steps(endpoint)
        self._endpoint = endpoint
        self._ask: Ask | None = None
        self._value: list[T] = []
        self.last: Reply | None = None

    @property
    def value(self) -> T:
        return self._value[0]

    @property
    def identity(self) -> Identity:
        """Who the worker said it is."""
        return NOBODY if self.last is None else self.last.identity

    def begin(self) -> Ask | None:
        """Return the first request."""
        return self._advance(lambda: next(self._steps))

    def answer(self, reply: Reply) -> Ask | None:
        """Take a reply; return the next request, None when `value` is there.

        Raises:
            WorkerError: the reply is a refusal that the question does not handle, or it makes no sense.
        """
        self.last = reply
        assert self._ask is not None
        if self._ask.handler and reply.status != 200:
            return self.fail(failure(self._endpoint, self._ask.handler, reply))
        return self._advance(lambda: self._steps.send(reply))

    def fail(self, error: WorkerError) -> Ask | None:
        """Take a failed request; as `answer`."""
        return self._advance(lambda: self._steps.throw(error))

    def _advance(self, step: Callable[[], Ask]) -> Ask | None:
        try:
            self._ask = step()
        except StopIteration as stop:
            self._ask = None
            self._value.append(stop.value)
        return self._ask
