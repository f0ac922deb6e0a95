"""A worker's identity and state: its checked `info` answer, or the little that torch's own server reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torchctl.errors import NoSuchHandlerError, NotAWorkerError
from torchctl.protocol.info import SCHEMA_PREFIX
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import handler_request
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import relayed

T = TypeVar("T")
_MAX_BYTES = 16 << 20  # with the calls of thousands of threads
_MAX_CHARS = 1000


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker reports about itself; a field is None if it does not say.

    Attributes:
        uptime_s: seconds since its process started.
        step, step_age_s: the last reported step, and how many seconds ago, by the worker's own clock.
        degraded, since: why and since when (seconds since the epoch) its sentinel answers for it; None otherwise.
        sentinel: the sentinel's pid, None if there is none.
        server: "torchctl VERSION", or "torch" for torch's own server, which reports nothing else.
    """

    rank: int | None = None
    world_size: int | None = None
    host: str | None = None
    pid: int | None = None
    job_id: str | None = None
    uptime_s: float | None = None
    step: int | None = None
    step_age_s: float | None = None
    server: str = "torch"
    start_time: float | None = None
    degraded: str | None = None
    since: float | None = None
    sentinel: int | None = None


@relayed("info")
@Question
def ask_info(endpoint: Endpoint) -> Asking[WorkerInfo]:
    """Return a worker's info; see `info_and_reply`."""
    return (yield from info_and_reply(endpoint))[0]


def info_and_reply(
    endpoint: Endpoint, params: Mapping[str, str] | None = None
) -> Asking[tuple[WorkerInfo, Reply | None]]:
    """Return a worker's info, and its raw reply to `info`.

    torch's own server does not have `info`, so it is asked for a ping, and the raw reply is None.

    Args:
        params: ``calls``: ``true`` for its threads' calls too; workers with an older version omit them.

    Raises:
        WorkerError: there was no answer; NotAWorkerError if it is malformed.
    """
    try:
        reply = yield handler_request("info", params, max_bytes=_MAX_BYTES)
    except NoSuchHandlerError:
        reply = yield handler_request("ping", max_bytes=_MAX_BYTES)
        return WorkerInfo(rank=reply.rank, pid=reply.pid), None
    try:
        document = json.loads(reply.body)
        if not str(document["schema"]).startswith(SCHEMA_PREFIX):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NotAWorkerError(
            "answered `info` in an unexpected form", endpoint=str(endpoint), rank=reply.rank
        ) from error
    info = replace(_checked(document), degraded=reply.identity.degraded, since=reply.identity.since)
    return info, reply


def _checked(document: dict[str, Any]) -> WorkerInfo:
    step_time, now = _get(document, "step_time", float), _get(document, "time", float)
    return WorkerInfo(
        rank=_get(document, "rank", int),
        world_size=_get(document, "world_size", int),
        host=_get(document, "host", str),
        pid=_get(document, "pid", int),
        job_id=_get(document, "job_id", str),
        uptime_s=_get(document, "uptime_s", float),
        step=_get(document, "step", int),
        step_age_s=None if step_time is None or now is None else max(0.0, now - step_time),
        sentinel=_get(document, "sentinel", int),
        start_time=_get(document, "start_time", float),
        server=f"torchctl {_get(document, 'server_version', str) or '?'}",
    )


def _get(document: dict[str, Any], key: str, kind: type[T]) -> T | None:
    """Return a field if its type and size are valid, else None: an invalid field is treated as missing."""
    value = document.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else None
    if not isinstance(value, kind) or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return value[:_MAX_CHARS]  # type: ignore[return-value]
    return value if -(1 << 53) < value < 1 << 53 else None  # type: ignore[operator]
