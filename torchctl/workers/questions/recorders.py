"""Torch's two flight recorders in a worker: which handlers dump them, and when to ask for the second one.

How this works: a job may use NCCL's recorder and the generic one, which gloo and others have. A worker whose torch has
no NCCL answers a request for NCCL's dump with the generic one; a worker that has not loaded torch answers with an
empty dump. Both say so in a header, and then there is no second dump to ask for. torch's own server does not say, so
it is asked for both. Relays with another version replay these requests in order, so the order within each function
never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torchctl.errors import HandlerError, NoSuchHandlerError
from torchctl.protocol import GENERIC_RECORDER, NCCL_RECORDER, NO_RECORDER
from torchctl.workers.ask.question import Asking
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request, handler_request

_COUNTERS_BYTES = 1 << 20
_DIGEST_BYTES = 64 << 20  # enough for a ring of 250,000 entries that are all open


class RawTrace(NamedTuple):
    """One recorder's dump.

    Attributes:
        recorder: "nccl" or "generic"; "none" from a process that has not loaded torch.
        rank: the worker's rank, None if it does not say.
        answered_ns: when it arrived, by this host's clock, in nanoseconds since the epoch.
    """

    recorder: str
    rank: int | None
    body: bytes
    answered_ns: int


def first_trace(params: Mapping[str, str] | None = None) -> Request:
    """Return the request for the complete dump of NCCL's recorder, or of the generic one if it is the only one."""
    return handler_request("dump_nccl_trace_pickle", params)


def generic_trace(params: Mapping[str, str] | None = None) -> Asking[Reply]:
    """Return the complete dump of the generic recorder; as JSON, without frames, if torch has no other form."""
    try:
        return (yield handler_request("fr_trace_pickle", params))
    except NoSuchHandlerError:
        return (yield handler_request("fr_trace_json"))


def is_generic(reply: Reply) -> bool:
    """Return whether a reply to `first_trace` came from the generic recorder, so that it need not be asked for."""
    return reply.recorder == GENERIC_RECORDER


def both_traces(*, frames: bool) -> Asking[tuple[RawTrace, ...]]:
    """Return the complete dumps of a worker's recorders.

    Args:
        frames: include the stack of each entry; the first such dump in a process takes a second.
    """
    params = {"includestacktraces": "true" if frames else "false"}
    try:
        first = yield first_trace(params)
    except NoSuchHandlerError:  # a torch without NCCL
        return (_raw((yield handler_request("fr_trace_json")), GENERIC_RECORDER),)
    if is_generic(first):
        return (_raw(first, GENERIC_RECORDER),)
    second = yield from generic_trace(params)
    return _raw(first, NCCL_RECORDER), _raw(second, GENERIC_RECORDER)


def both_digests() -> Asking[tuple[RawTrace, ...]]:
    """Return the newest entries of a worker's recorders.

    Raises:
        NoSuchHandlerError: the worker has no digest: it is torch's own server, or an older torchctl.
    """
    first = yield handler_request("fr_digest", max_bytes=_DIGEST_BYTES)
    if first.recorder != NCCL_RECORDER:
        return (_raw(first, NCCL_RECORDER),)
    second = yield handler_request("fr_digest", {"recorder": GENERIC_RECORDER}, max_bytes=_DIGEST_BYTES)
    return _raw(first, NCCL_RECORDER), _raw(second, GENERIC_RECORDER)


def both_counters() -> Asking[list[bytes]]:
    """Return the recorders' counters, as JSON without entries, or none if there is no recorder."""
    found = []
    for handler in ("dump_nccl_trace_json", "fr_trace_json"):
        try:
            reply = yield handler_request(handler, {"includecollectives": "false"}, max_bytes=_COUNTERS_BYTES)
        except HandlerError:  # it has no such recorder
            continue
        found.append(reply.body)
        if reply.recorder in (GENERIC_RECORDER, NO_RECORDER):
            break
    return found


def _raw(reply: Reply, recorder: str) -> RawTrace:
    """Return a reply as a dump from the requested recorder, unless the reply names another one."""
    return RawTrace(reply.recorder or recorder, reply.rank, reply.body, round(reply.answered_at * 1e9))
