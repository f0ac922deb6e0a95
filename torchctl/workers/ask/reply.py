"""A worker's reply and the meaning of its status, shared by all transports. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from torchctl import protocol
from torchctl.errors import (
    AccessDeniedError,
    BusyError,
    DegradedError,
    HandlerError,
    NoSuchHandlerError,
    NotAWorkerError,
    WorkerError,
)
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.workers.endpoint import Endpoint

_MESSAGE_CHARS = 500  # kept of a failing handler's text
_OTHER_DOOR = "connect as the user who owns the job, and use the host's own name or 127.0.0.1"
_LATER = "set TORCHCTL_TOKEN or --token-file to the server's token and try again in a few seconds"


class Reply(NamedTuple):
    """A worker's answer.

    Attributes:
        status: HTTP status.
        body: the whole body, as sent.
        recorder: which recorder a trace came from, "nccl", "generic" or "none"; "" if the reply does not say.
        elapsed_s: from the connection attempt to the last byte.
        identity: the worker that answered.
        answered_at: when the last byte arrived, by this host's clock, in seconds since the epoch.
    """

    status: int
    body: bytes
    recorder: str
    elapsed_s: float
    identity: Identity = NOBODY
    answered_at: float = 0.0

    @property
    def rank(self) -> int | None:
        return self.identity.rank

    @property
    def pid(self) -> int | None:
        return self.identity.pid


def make_reply(status: int, body: bytes, headers: Mapping[str, str], elapsed_s: float) -> Reply:
    """Return the reply, including what its headers say.

    Args:
        headers: by lower-case name, or a mapping that ignores case.
    """
    recorder = headers.get(protocol.RECORDER_HEADER.lower(), "")
    return Reply(status, body, recorder, elapsed_s, Identity.from_headers(headers), time.time())


def degraded_words(identity: Identity) -> str:
    """Return since when and why a worker does not answer by itself, or "" if it does."""
    if identity.degraded is None:
        return ""
    since = "" if identity.since is None else time.strftime(" since %H:%M:%S", time.localtime(identity.since))
    return f"degraded{since}: {identity.degraded}"


def failure(endpoint: Endpoint, handler: str, reply: Reply) -> WorkerError:
    """Return the error for a reply whose status is not 200."""
    text = reply.body[: 4 * _MESSAGE_CHARS].decode("utf-8", "replace").strip()[:_MESSAGE_CHARS]
    where, rank = str(endpoint), reply.rank if reply.rank is not None else endpoint.rank
    if reply.status == 404 and text.startswith("Handler "):
        return NoSuchHandlerError(f"has no handler {handler!r}", endpoint=where, rank=rank, status=404)
    if reply.status == 503 and reply.identity.degraded is not None:
        detail = f"cannot answer for itself: {degraded_words(reply.identity)}"
        return DegradedError(detail, endpoint=where, rank=rank)
    if reply.status == 401:
        return wants_token(endpoint, rank)
    if reply.status == 403 and not text.startswith("Handler "):
        return AccessDeniedError(f"denied access: {text}", endpoint=where, rank=rank, hint=_OTHER_DOOR)
    if reply.status == 426:
        hint = "give the CA of its certificate: --ca FILE"
        return AccessDeniedError("requires TLS", endpoint=where, rank=rank, hint=hint)
    if reply.status == 429:
        return BusyError("has seen too many wrong tokens from this host", endpoint=where, rank=rank, hint=_LATER)
    if reply.status == 503 and "connections of this server are in use" in text:
        return BusyError("is busy: all its connections are in use", endpoint=where, rank=rank)
    if reply.status < 400 or (reply.status == 404 and reply.pid is None):
        return NotAWorkerError(f"is not a worker: it answered HTTP {reply.status}", endpoint=where, rank=rank)
    return HandlerError(
        f"answered HTTP {reply.status}: {text or 'no message'}", endpoint=where, rank=rank, status=reply.status
    )


def wants_token(endpoint: Endpoint, rank: int | None) -> AccessDeniedError:
    """Return the error for a worker that rejected our token, or did not receive one."""
    if endpoint.untrusted:
        return AccessDeniedError(
            "requires a token, and none was sent: only the store named this address",
            endpoint=str(endpoint),
            rank=rank,
            hint="--trust-store sends it over loopback or TLS verified by --ca; or give the worker with --host",
        )
    return AccessDeniedError("requires a token and did not accept ours", endpoint=str(endpoint), rank=rank)
