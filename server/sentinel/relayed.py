"""A trace relayed from torch's own C++ server in the worker, which answers without the interpreter lock."""

from __future__ import annotations

import contextlib
import select
import socket
import time

_TIMEOUT_S = 15.0
_MAX_BYTES = 64 << 20


class Relayed:
    """A task for the loop, like `outside.Stacks`.

    Args:
        path: the private socket's.
        request: the handler's name, with its query.
    """

    def __init__(self, path: str, request: str) -> None:
        self.answer: tuple[int, bytes, str] | None = None
        self.events = select.POLLOUT
        self.wake = time.monotonic() + _TIMEOUT_S
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._data = bytearray()
        self._out = f"POST /handler/{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n".encode("latin-1")
        self._out += b"Connection: close\r\n\r\n"
        self.descriptor = self._sock.fileno()
        try:
            self._sock.connect(path)
        except OSError as error:
            self._fail(f"cannot be reached: {error.strerror}")

    def step(self) -> None:
        """Make progress without blocking."""
        if self.answer is not None:
            return
        if time.monotonic() >= self.wake:
            self._fail("did not answer in time")
            return
        try:
            if self._out:
                self._out = self._out[self._sock.send(self._out, socket.MSG_NOSIGNAL) :]
                self.events = select.POLLOUT if self._out else select.POLLIN
                return
            while chunk := self._sock.recv(1 << 16):
                self._data += chunk
                if len(self._data) > _MAX_BYTES:
                    self._fail("sent too much")
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"closed the connection early: {error.strerror}")
            return
        self._parse()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()
        self.descriptor = -1

    def _parse(self) -> None:
        head, _, body = bytes(self._data).partition(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) < 2 or not words[1].isdigit():
            self._fail("did not send HTTP")
            return
        status = int(words[1])
        self.answer = (status, body, "application/json" if status == 200 else "text/plain; charset=utf-8")

    def _fail(self, words: str) -> None:
        self.answer = (503, f"torch's own server in the worker {words}\n".encode(), "text/plain; charset=utf-8")
        with contextlib.suppress(OSError):
            self._sock.close()
