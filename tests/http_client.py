"""A bare HTTP client on the standard library, over a Unix socket or TCP: the tests' own, not torchctl's."""

from __future__ import annotations

import http.client
import socket
from typing import NamedTuple

TIMEOUT_S = 60.0  # a guard: a busy machine may take seconds


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def connect(address: str, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """Connect to a socket's path or to HOST:PORT."""
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        sock.settimeout(timeout_s)
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def request(
    address: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Reply:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(address, timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


def post(address: str, handler: str, body: bytes | None = None) -> Reply:
    """Call a handler, with its query if there is one."""
    return request(address, "POST", f"/handler/{handler}", body)


def raw(address: str, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are and return all that comes back until the server closes."""
    with connect(address) as sock:
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused in the middle: the answer may still be there
        out = b""
        try:
            while chunk := sock.recv(65536):
                out += chunk
        except ConnectionResetError:
            pass
        return out
