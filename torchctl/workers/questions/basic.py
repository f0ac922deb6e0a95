"""The questions that the commands ask, each written once for all transports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torchctl.errors import NotAWorkerError
from torchctl.protocol import HANDLER_PATH
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply, wants_token
from torchctl.workers.ask.request import Request, handler_request
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import relayed

if TYPE_CHECKING:
    from torchctl.stacks.stack import Stacks

_PING_BYTES = 4096
_NAMES_BYTES = 1 << 20


@relayed("ping")
@Question
def ping(endpoint: Endpoint) -> Asking[Reply]:
    """Return a worker's `pong`, or its sentinel's answer on its behalf (`Identity.degraded`).

    Raises:
        WorkerError: there was no answer; NotAWorkerError if it is not a `pong`.
    """
    reply = yield handler_request("ping", max_bytes=_PING_BYTES)
    if reply.body.strip() != b"pong" and reply.identity.degraded is None:
        raise NotAWorkerError(
            "answered the ping with something other than pong", endpoint=str(endpoint), rank=reply.rank
        )
    return reply


class Handlers(NamedTuple):
    """One worker's handler names."""

    rank: int | None
    names: tuple[str, ...]


@relayed("handlers")
@Question
def ask_names(endpoint: Endpoint) -> Asking[Handlers]:
    """Return the names of a worker's handlers.

    Raises:
        WorkerError: there was no answer; NotAWorkerError if it is not a list of names.
    """
    reply = yield Request("GET", HANDLER_PATH, max_bytes=_NAMES_BYTES)
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
    """One worker's stacks; `step` is the training step that it last reported.

    `degraded` says why the stacks were read from outside, or is None if the worker sent them itself. `name` is the
    display name of a process without a rank, or "" to use its endpoint.
    """

    rank: int | None
    pid: int | None
    stacks: Stacks
    step: int | None = None
    degraded: str | None = None
    name: str = ""


def stacks_question(read: Callable[[bytes], Stacks] | None = None, *, form: str = "json") -> Question[WorkerStacks]:
    """Return the question for a worker's stacks.

    Args:
        read: parses an answer, `parse_stacks` by default; sharing one `StackReader.read` among all workers makes equal
            stacks one object.
        form: "json"; or "text", in which many workers send identical text.
    """

    if read is None:
        from torchctl.stacks.reader import parse_stacks

        read = parse_stacks

    @Question
    def stacks(endpoint: Endpoint) -> Asking[WorkerStacks]:
        # torch's own server ignores the parameters and answers with text; our older servers do not know calls.
        reply = yield handler_request("dump_traceback", {"format": form, CALLS_PARAMETER: "true"})
        try:
            about = reply.identity
            return WorkerStacks(reply.rank, reply.pid, read(reply.body), about.step, about.degraded)
        except ValueError as error:
            raise NotAWorkerError(f"sent no stacks: {error}", endpoint=str(endpoint), rank=reply.rank) from error

    stacks.name = "stacks"
    return stacks


@relayed("stacks")
def _relayed_stacks(arguments: Mapping[str, Any]) -> Question[WorkerStacks]:
    return stacks_question(form="text")  # so that text shared by many workers travels once


def call_question(handler: str, params: Mapping[str, str], body: bytes) -> Question[Reply]:
    """Return the question that calls a handler and returns its reply unchanged."""

    @Question
    def call(endpoint: Endpoint) -> Asking[Reply]:
        return (yield handler_request(handler, params, body=body))

    call.name, call.arguments = "call", {"handler": handler, "params": dict(params), "body": body.hex()}
    return call


@relayed("call")
def _relayed_call(arguments: Mapping[str, Any]) -> Question[Reply]:
    handler, params, body = arguments["handler"], arguments["params"], bytes.fromhex(arguments["body"])
    if not isinstance(handler, str) or not all(isinstance(one, str) for pair in params.items() for one in pair):
        raise ValueError("the arguments of `call` are in an unexpected form")
    return call_question(handler, params, body)
