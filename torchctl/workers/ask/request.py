"""A request to a worker, independent of the transport. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

from torchctl import protocol
from torchctl.errors import AccessDeniedError
from torchctl.workers.endpoint import Endpoint


class Request(NamedTuple):
    """One HTTP request.

    Attributes:
        handler: the handler's name; "" if the path is not a handler's.
        path: the path with its query.
        max_bytes: limit on the reply's body.
    """

    method: str
    path: str
    handler: str = ""
    body: bytes = b""
    max_bytes: int = protocol.MAX_REPLY_BYTES


def handler_request(
    handler: str,
    params: Mapping[str, str] | None = None,
    *,
    body: bytes = b"",
    max_bytes: int = protocol.MAX_REPLY_BYTES,
) -> Request:
    """Return the request that calls a handler; a status other than 200 raises where the request was yielded."""
    query = f"?{urlencode(params)}" if params else ""
    return Request("POST", f"{protocol.HANDLER_PATH}{quote(handler, safe='')}{query}", handler, body, max_bytes)


def request_headers(endpoint: Endpoint) -> dict[str, str]:
    """Return a request's headers, with the token only if it goes to a TCP address that the operator named.

    Raises:
        AccessDeniedError: TORCHCTL_TOKEN is not a valid token.
    """
    headers = {"User-Agent": "torchctl", "Accept-Encoding": "identity", "Connection": "close"}
    token = endpoint.token or os.environ.get(protocol.TOKEN_VARIABLE, "").strip()
    if token and not endpoint.path and not endpoint.untrusted:
        problem = protocol.token_problem(token)
        if problem:
            raise AccessDeniedError(f"cannot be asked: {protocol.TOKEN_VARIABLE} {problem}", endpoint=str(endpoint))
        headers["Authorization"] = f"Bearer {token}"
    return headers
