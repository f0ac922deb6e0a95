"""The questions that the commands ask, each written once for every way of asking."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torchctl.errors import NotAWorkerError
from torchctl.protocol import HANDLER_PATH
from torchctl.workers.ask.question import Ask, Question, Steps, ask_handler
from torchctl.workers.ask.reply import Reply, wants_token
from torchctl.workers.endpoint import Endpoint

if TYPE_CHECKING:
    from torchctl.stacks.stack import Stacks

_PING_BYTES = 4096
_NAMES_BYTES = 1 << 20


@Question
def ping(endpoint: Endpoint) -> Steps[Reply]:
    """Return a worker's `pong`, or what its sentinel says in its place (`Identity.degraded`).

    Raises:
        WorkerError: as `client.call`; NotAWorkerError for any other word.
    """
    reply = yield ask_handler("ping", max_bytes=_PING_BYTES)
    if reply.body.strip() != b"pong" and reply.identity.degraded is None:
        raise NotAWorkerError("answered the ping with something else", endpoint=str(endpoint), rank=reply.rank)
    return reply


class Handlers(NamedTuple):
    """One worker's handler names."""

    rank: int | None
    names: tuple[str, ...]


@Question
def ask_names(endpoint: Endpoint) -> Steps[Handlers]:
    """Return the names that a worker lists.

    Raises:
        WorkerError: as `client.request`; NotAWorkerError when it is no list of names.
    """
    reply = yield Ask("GET", HANDLER_PATH, max_bytes=_NAMES_BYTES)
    if reply.status == 401:
        raise wants_token(endpoint, reply.rank)
    try:
        names = json.loads(reply.body) if reply.status == 200 else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotAWorkerError("sent no list of handlers", endpoint=str(endpoint), rank=reply.rank)
    return Handlers(reply.rank, tuple(sorted(names)))


class WorkerStacks(NamedTuple):
    """One worker's stacks; `step` is the training step it had reported.

    `degraded` says why the stacks were read from outside, None when the worker sent them itself.
    """

    rank: int | None
    pid: int | None
    stacks: Stacks
    step: int | None = None
    degraded: str | None = None


def stacks_question(read: Callable[[bytes], Stacks] | None = None, *, form: str = "json") -> Question[WorkerStacks]:
    """Return the question for a worker's stacks.

    Args:
        read: parses an answer, `parse_stacks` when left out; one `StackReader.read` for all workers lets equal stacks
            be one object.
        form: "json"; or "text", in which the stacks of many workers repeat each other word by word.
    """

    if read is None:
        from torchctl.stacks.reader import parse_stacks

        read = parse_stacks

    @Question
    def stacks(endpoint: Endpoint) -> Steps[WorkerStacks]:
        # torch's own server ignores the parameter and answers text.
        reply = yield ask_handler("dump_traceback", {"format": form})
        try:
            about = reply.identity
            return WorkerStacks(reply.rank, reply.pid, read(reply.body), about.step, about.degraded)
        except ValueError as error:
            raise NotAWorkerError(f"sent no stacks: {error}", endpoint=str(endpoint), rank=reply.rank) from error

    stacks.name = "stacks"
    return stacks


def call_question(handler: str, params: Mapping[str, str], body: bytes) -> Question[Reply]:
    """Return the question that calls a handler and gives its answer as it came."""

    @Question
    def call(endpoint: Endpoint) -> Steps[Reply]:
        return (yield ask_handler(handler, params, body=body))

    call.name, call.arguments = "call", {"handler": handler, "params": dict(params), "body": body.hex()}
    return call


ping.name = "ping"
ask_names.name = "handlers"


def named_question(name: str, arguments: Mapping[str, Any]) -> Question[Any]:
    """Return the question that another torchctl named: what `torchctl relay` is asked to ask.

    Raises:
        ValueError: there is none of that name, or its arguments have another form.
    """
    if name == "call":
        handler, params, body = arguments["handler"], arguments["params"], bytes.fromhex(arguments["body"])
        if not isinstance(handler, str) or not all(isinstance(one, str) for pair in params.items() for one in pair):
            raise ValueError("the arguments of `call` have another form")
        return call_question(handler, params, body)
    if name == "dumps":
        from torchctl.workers.questions.dumps import dumps_question

        return dumps_question(stacktraces=arguments["stacktraces"] is True)
    if name == "sight":
        from torchctl.workers.questions.look import named_sight

        return named_sight(arguments)
    if name == "everything":
        from torchctl.workers.questions.everything import Everything, read_had

        return Everything(read_had(arguments["had"]))
    from torchctl.workers.questions.info import ask_info

    known: dict[str, Question[Any]] = {"ping": ping, "handlers": ask_names, "info": ask_info}
    if name not in known:
        raise ValueError(f"there is no question {name!r}")
    return known[name]
