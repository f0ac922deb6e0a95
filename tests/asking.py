"""One handler of one worker, called and waited for: what a test needs of the asking side."""

from __future__ import annotations

from collections.abc import Mapping

from torchctl import protocol
from torchctl.workers.ask.one import send
from torchctl.workers.ask.reply import Reply, failure
from torchctl.workers.ask.request import handler_request
from torchctl.workers.endpoint import Endpoint


def call(
    endpoint: Endpoint,
    handler: str,
    deadline: float,
    *,
    params: Mapping[str, str] | None = None,
    body: bytes = b"",
    max_bytes: int = protocol.MAX_REPLY_BYTES,
) -> Reply:
    """Call a handler and return its reply.

    Args:
        deadline: `time.monotonic` seconds.

    Raises:
        WorkerError: there is none, or it is a refusal.
    """
    reply = send(endpoint, handler_request(handler, params, body=body, max_bytes=max_bytes), deadline)
    if reply.status == 200:
        return reply
    raise failure(endpoint, handler, reply)
