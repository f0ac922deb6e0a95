"""One worker: HTTP over a Unix socket or TCP, one request, one deadline, every failure one of our errors.

How this works: urllib3 speaks HTTP over a connection class of ours. Its own timeouts are per read, so that
a server that drips bytes would never run into one; `_DeadlineSocket` instead gives every read and write
what is left until one deadline. There are no retries and no redirects, since the connection is used
directly, without a pool; and the body is read in pieces up to a size limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.parse import quote, urlencode

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from torchctl import protocol
from torchctl.endpoint import Endpoint
from torchctl.errors import (
    AccessDeniedError,
    BusyError,
    DeadlineError,
    HandlerError,
    NoSuchHandlerError,
    NoSuchSocketError,
    NotAWorkerError,
    RefusedError,
    TooLargeError,
    UnknownHostError,
    UnreachableError,
    WorkerError,
)

_CHUNK_BYTES = 1 << 16
_MESSAGE_CHARS = 500  # of a failing handler's text


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer.

    Attributes:
        status: HTTP status.
        body: all of it, as sent.
        rank, pid: whose answer it is; None from a server that does not say (torch's own).
        recorder: which recorder a trace came from, "nccl" or "generic"; "" when not said.
        elapsed_s: from the connection attempt to the last byte.
    """

    status: int
    body: bytes
    rank: int | None
    pid: int | None
    recorder: str
    elapsed_s: float


def call(
    endpoint: Endpoint,
    handler: str,
    deadline: float,
    *,
    params: Mapping[str, str] | None = None,
    body: bytes = b"",
    max_bytes: int = protocol.MAX_REPLY_BYTES,
) -> Reply:
    """Call a worker's handler and return its answer.

    Args:
        endpoint: the worker.
        handler: the handler's name.
        deadline: `time.monotonic` seconds by which the whole answer must be here.
        params: query parameters.
        body: the request's body.
        max_bytes: limit of the answer's body.

    Raises:
        HandlerError: the handler failed, or refused its parameters.
        NoSuchHandlerError: the worker has none of that name.
        WorkerError: everything else; see `torchctl.errors`.
    """
    query = f"?{urlencode(params)}" if params else ""
    path = f"{protocol.HANDLER_PATH}{quote(handler, safe='')}{query}"
    reply = request(endpoint, "POST", path, deadline, body=body, max_bytes=max_bytes)
    if reply.status == 200:
        return reply
    raise _failure(endpoint, handler, reply)


def request(
    endpoint: Endpoint,
    method: str,
    path: str,
    deadline: float,
    *,
    body: bytes = b"",
    max_bytes: int = protocol.MAX_REPLY_BYTES,
) -> Reply:
    """Send one request and return the answer, whatever its status; arguments and errors as `call`."""
    began = time.monotonic()
    connection = _Connection(endpoint, deadline)
    try:
        headers = _headers(endpoint)
        # A server may refuse before it has read everything: then its answer counts, not our broken pipe.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body if method == "POST" else None, headers, preload_content=False)
        with contextlib.closing(connection.getresponse()) as response:
            content = _read(response, max_bytes, endpoint)
            status, fields = response.status, response.headers
    except WorkerError as error:
        error.rank = endpoint.rank
        raise
    except (OSError, HTTPException, HTTPError, ValueError) as error:
        raise _translated(error, endpoint, time.monotonic() - began, connection.connected) from error
    finally:
        connection.close()
    return Reply(
        status,
        content,
        _number(fields.get(protocol.RANK_HEADER)),
        _number(fields.get(protocol.PID_HEADER)),
        fields.get(protocol.RECORDER_HEADER, ""),
        time.monotonic() - began,
    )


class _DeadlineSocket(socket.socket):
    """A socket whose every wait ends at one deadline (`time.monotonic` seconds)."""

    deadline = float("inf")

    def limit(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        super().settimeout(left)

    def settimeout(self, value: float | None) -> None:
        """Ignore what http.client and urllib3 would set: the deadline rules."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.limit()
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.limit()
        super().sendall(*args, **kwargs)


class _Connection(HTTPConnection):
    """urllib3's connection to an `Endpoint`."""

    def __init__(self, endpoint: Endpoint, deadline: float) -> None:
        super().__init__(endpoint.host or "localhost", endpoint.port or None)
        self.endpoint = endpoint
        self.deadline = deadline
        self.connected = False

    def connect(self) -> None:
        self.sock = self._connect_unix() if self.endpoint.path else self._connect_tcp()
        self.connected = True

    def _connect_unix(self) -> socket.socket:
        sock = _DeadlineSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.deadline = self.deadline
            left = max(0.001, self.deadline - time.monotonic())
            # With a Python timeout a full backlog is EAGAIN at once; a blocking connect under SO_SNDTIMEO waits.
            limit = struct.pack("ll", int(left), int(left % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(self.endpoint.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _connect_tcp(self) -> socket.socket:
        failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        found = socket.getaddrinfo(self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM)
        for family, kind, number, _, address in found:
            sock = _DeadlineSocket(family, kind, number)
            try:
                sock.deadline = self.deadline
                sock.limit()
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure


def _headers(endpoint: Endpoint) -> dict[str, str]:
    """Return the request's headers; the token goes to TCP addresses only, a Unix socket needs none."""
    headers = {"User-Agent": "torchctl", "Accept-Encoding": "identity", "Connection": "close"}
    token = os.environ.get(protocol.TOKEN_VARIABLE, "").strip()
    if token and not endpoint.path:
        problem = protocol.token_problem(token)
        if problem:
            raise AccessDeniedError(f"cannot be asked: {protocol.TOKEN_VARIABLE} {problem}", endpoint=str(endpoint))
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _read(response: Any, max_bytes: int, endpoint: Endpoint) -> bytes:
    data = bytearray()
    while chunk := response.read(_CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > max_bytes:
            raise TooLargeError(f"sent more than {max_bytes} bytes", endpoint=str(endpoint))
    return bytes(data)


def _failure(endpoint: Endpoint, handler: str, reply: Reply) -> WorkerError:
    """Return the error for an answer that is not 200."""
    text = reply.body[: 4 * _MESSAGE_CHARS].decode("utf-8", "replace").strip()[:_MESSAGE_CHARS]
    where, rank = str(endpoint), reply.rank if reply.rank is not None else endpoint.rank
    if reply.status == 404 and text.startswith("Handler "):
        return NoSuchHandlerError(f"has no handler {handler!r}", endpoint=where, rank=rank, status=404)
    if reply.status == 401:
        return AccessDeniedError("wants a token, and did not accept ours", endpoint=where, rank=rank)
    if reply.status == 503 and "connections of this server are in use" in text:
        return BusyError("is busy: all its connections are in use", endpoint=where, rank=rank)
    if reply.status < 400 or (reply.status == 404 and reply.pid is None):
        return NotAWorkerError(f"is no worker: it answered HTTP {reply.status}", endpoint=where, rank=rank)
    return HandlerError(
        f"answered HTTP {reply.status}: {text or 'no message'}", endpoint=where, rank=rank, status=reply.status
    )


def _translated(error: Exception, endpoint: Endpoint, elapsed_s: float, connected: bool) -> WorkerError:
    """Return our error for one of the system's, http.client's or urllib3's: the only place that knows them."""
    where, rank = str(endpoint), endpoint.rank

    def make(kind: type[WorkerError], detail: str) -> WorkerError:
        return kind(detail, endpoint=where, rank=rank)

    cause = error.args[1] if isinstance(error, HTTPError) and len(error.args) > 1 else error
    if isinstance(cause, TimeoutError):
        if connected:
            return make(DeadlineError, f"accepted the connection and did not answer within {elapsed_s:.1f} s")
        return make(DeadlineError, f"did not accept the connection within {elapsed_s:.1f} s")
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return make(NoSuchSocketError, "does not exist")
    if isinstance(cause, ConnectionRefusedError):
        if endpoint.path and not _is_socket(endpoint.path):
            return make(NotAWorkerError, "is no socket")
        return make(RefusedError, "refused the connection")
    if isinstance(cause, PermissionError):
        return make(AccessDeniedError, "may not be opened by this user")
    if isinstance(cause, socket.gaierror):
        return make(UnknownHostError, f"is not known: {cause.strerror}")
    if isinstance(cause, BlockingIOError):
        return make(BusyError, "is busy: its queue of waiting connections is full")
    if isinstance(error, IncompleteRead) or isinstance(cause, ConnectionResetError | BrokenPipeError | IncompleteRead):
        return make(UnreachableError, "closed the connection without a full answer")
    if len(os.fsencode(endpoint.path)) > protocol.MAX_SOCKET_PATH_BYTES:
        limit = protocol.MAX_SOCKET_PATH_BYTES
        return make(NoSuchSocketError, f"is no socket's path: the system takes at most {limit} bytes")
    if isinstance(cause, OSError) and cause.errno in (errno.EPROTOTYPE, errno.ENOTSOCK):
        return make(NotAWorkerError, "is a socket of another type")
    if isinstance(cause, OSError):
        return make(UnreachableError, f"cannot be reached: {cause.strerror or cause}")
    return make(NotAWorkerError, "answered something that is no worker's HTTP")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
