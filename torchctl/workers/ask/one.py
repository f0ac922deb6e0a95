"""Ask one worker: HTTP over a Unix socket or TCP, with one deadline; every failure becomes one of our errors.

How this works: urllib3 speaks HTTP over our own connection class. Its timeouts are per read, so a server that
drips bytes would never hit one; `DeadlineSocket` instead gives every read and write the time left until one
deadline. There are no retries and no redirects, because the connection is used directly, without a pool. The body
is read in pieces up to a size limit.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from http.client import HTTPException, IncompleteRead
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from torchctl.errors import TooLargeError, WorkerError
from torchctl.workers.ask.deadlinesocket import DeadlineSocket
from torchctl.workers.ask.reply import Reply, make_reply
from torchctl.workers.ask.request import Request, request_headers
from torchctl.workers.ask.translation import translated
from torchctl.workers.endpoint import Endpoint

_CHUNK_BYTES = 1 << 16


def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    """Send one request and return the reply, whatever its status.

    Args:
        deadline: `time.monotonic` seconds; the whole reply must have arrived by then.

    Raises:
        WorkerError: there was no reply; see `torchctl.errors`.
    """
    began = time.monotonic()
    connection = _Connection(endpoint, deadline)
    body = request.body if request.method == "POST" else None
    try:
        headers = request_headers(endpoint)
        # A server may refuse before it has read the whole request; then its answer counts, not our broken pipe.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(request.method, request.path, body, headers, preload_content=False)
        with contextlib.closing(connection.getresponse()) as response:
            content = _read(response, request.max_bytes, endpoint)
            status, fields = response.status, response.headers
    except WorkerError as error:
        error.rank = endpoint.rank
        raise
    except (OSError, HTTPException, HTTPError, ValueError) as error:
        inner = [one for one in error.args if isinstance(one, Exception)] if isinstance(error, HTTPError) else []
        cause = inner[0] if inner else error
        if isinstance(error, IncompleteRead) or isinstance(cause, IncompleteRead):
            cause = ConnectionResetError()
        raise translated(cause, endpoint, time.monotonic() - began, connection.connected) from error
    finally:
        connection.close()
    return make_reply(status, content, fields, time.monotonic() - began)


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
        if self.endpoint.ca:
            from torchctl.workers.ask.tls import secured

            self.sock = secured(self.sock, self.endpoint.ca, self.endpoint.host, self.deadline)

    def _connect_unix(self) -> socket.socket:
        sock = DeadlineSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.deadline = self.deadline
            left = max(0.001, self.deadline - time.monotonic())
            # With a Python timeout, a full backlog gives EAGAIN at once; a blocking connect with SO_SNDTIMEO waits.
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
            sock = DeadlineSocket(family, kind, number)
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


def _read(response: Any, max_bytes: int, endpoint: Endpoint) -> bytes:
    data = bytearray()
    while chunk := response.read(_CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > max_bytes:
            raise TooLargeError(f"sent more than {max_bytes} bytes", endpoint=str(endpoint))
    return bytes(data)
