"""Torch's two flight recorders in a worker: which handlers give them, and when the second has to be asked for.

How this works: a job may use NCCL's recorder and the generic one, which gloo and others have. A worker whose torch has
no NCCL answers a request for NCCL's with the generic one; a worker that has not loaded torch answers with an empty
dump. Both say so in a header, and then there is no second one to ask for. torch's own server says nothing, so both are
asked for. A relay of another version plays these requests back by their order: within each function it never changes.
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
_DIGEST_BYTES = 64 << 20  # a ring of 250 thousand entries that are all open


class RawTrace(NamedTuple):
    """One recorder's dump.

    Attributes:
        recorder: "nccl" or "generic"; "none" from a process that has not loaded torch.
        rank: the worker's, None if it does not say.
        answered_ns: when it came, by this host's clock, in nanoseconds since the epoch.
    """

    recorder: str
    rank: int | None
    body: bytes
    answered_ns: int


def first_trace(params: Mapping[str, str] | None = None) -> Request:
    """Return the request for the whole dump of NCCL's recorder, or of the generic one where it is the only one."""
    return handler_request("dump_nccl_trace_pickle", params)


def generic_trace(params: Mapping[str, str] | None = None) -> Asking[Reply]:
    """Return the whole dump of the generic recorder; as JSON, without frames, from a torch that has no other."""
    try:
        return (yield handler_request("fr_trace_pickle", params))
    except NoSuchHandlerError:
        return (yield handler_request("fr_trace_json"))


def is_generic(reply: Reply) -> bool:
    """Whether a reply to `first_trace` is the generic recorder's: then that need not be asked for."""
    return reply.recorder == GENERIC_RECORDER


def both_traces(*, frames: bool) -> Asking[tuple[RawTrace, ...]]:
    """Return the whole dumps of a worker's recorders.

    Args:
        frames: with the stack of each entry; the first such dump of a process takes it a second.
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
        NoSuchHandlerError: it knows no digest: torch's own server, or an older torchctl.
    """
    first = yield handler_request("fr_digest", max_bytes=_DIGEST_BYTES)
    if first.recorder != NCCL_RECORDER:
        return (_raw(first, NCCL_RECORDER),)
    second = yield handler_request("fr_digest", {"recorder": GENERIC_RECORDER}, max_bytes=_DIGEST_BYTES)
    return _raw(first, NCCL_RECORDER), _raw(second, GENERIC_RECORDER)


def both_counters() -> Asking[list[bytes]]:
    """Return what recorders count, as JSON without entries; none if there is no recorder."""
    found = []
    for handler in ("dump_nccl_trace_json", "fr_trace_json"):
        try:
            reply = yield handler_request(handler, {"includecollectives": "false"}, max_bytes=_COUNTERS_BYTES)
        except HandlerError:  # it has none
            continue
        found.append(reply.body)
        if reply.recorder in (GENERIC_RECORDER, NO_RECORDER):
            break
    return found


def _raw(reply: Reply, recorder: str) -> RawTrace:
    """Return a reply as a dump, of the recorder that was asked for unless it says otherwise."""
    return RawTrace(reply.recorder or recorder, reply.rank, reply.body, round(reply.answered_at * 1e9))
