"""HTTP in the worker's place: one thread, a few clients, the three questions that can be answered from outside.

How this works: a client is read until its head is complete, answered once, and read on until it closes, so that the
answer is not lost with what it still sends. Each has one deadline for all that. Stacks take a while: who asks for
them meanwhile gets the same ones. Unix sockets answer the worker's own user and root; TCP wants the token, where
the worker was given one, and on loopback nothing that looks like a web page: a foreign Host, any Origin.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from _operator import _compare_digest

from torchctl import protocol
from torchctl.server.sentinel.native import Relayed
from torchctl.server.sentinel.outside import Stacks
from torchctl.server.sentinel.state import NATIVE_HANDLERS, State, as_json

_MAX_CLIENTS = 32
_MAX_HEAD_BYTES = 16384
_CLIENT_S = 20.0  # from accept to the end; py-spy takes up to 10 of them
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_REASONS |= {405: "Method Not Allowed", 503: "Service Unavailable"}
_CREDENTIALS = struct.Struct("3i")


class _Client:
    """One connection: `waits` for stacks or a relayed trace, or is being written to while `out` is not empty."""

    __slots__ = ("answered", "data", "deadline", "loopback", "out", "sock", "token", "waits")

    def __init__(self, sock: socket.socket, token: str | None, loopback: bool) -> None:
        self.sock = sock
        self.token = token
        self.loopback = loopback  # reached over TCP on the host's own address
        self.data = b""
        self.out = b""
        self.answered = False
        self.waits: Stacks | Relayed | None = None
        self.deadline = time.monotonic() + _CLIENT_S


class Desk:
    """Accepts and answers.

    Args:
        poll: the loop's; clients and the pipes of helpers are registered with it.
        dump: the memfd into which the worker's interpreter can be made to write its stacks.
    """

    def __init__(self, state: State, poll: select.poll, dump: int | None) -> None:
        self._state = state
        self._poll = poll
        self._dump = dump
        self._clients: dict[int, _Client] = {}
        self._tasks: list[Stacks | Relayed] = []

    def accept(self, listening: socket.socket, is_tcp: bool) -> None:
        """Take one connection, unless the worker was quicker."""
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients)))
        loopback = is_tcp and _is_loopback(str(sock.getsockname()[0]))
        client = _Client(sock, self._state.worker.token if is_tcp else None, loopback)
        self._clients[sock.fileno()] = client
        self._poll.register(sock, select.POLLIN)
        if not is_tcp and _peer_uid(sock) not in (0, os.geteuid()):
            self._answer(client, 403, "this worker answers its own user and root\n")

    def attend(self, descriptor: int) -> None:
        """Go on with what a descriptor is ready for."""
        for task in list(self._tasks):
            if task.descriptor == descriptor:
                self._progress(task)
                return
        client = self._clients.get(descriptor)
        if client is None:
            return
        try:
            if client.out:
                self._write(client)
            else:
                self._read(client)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(descriptor)

    def next_deadline(self) -> float:
        """Return when `sweep` has something to do, in `time.monotonic` seconds; infinity while nobody is here."""
        deadlines = [client.deadline for client in self._clients.values()]
        return min(deadlines + [task.wake for task in self._tasks], default=float("inf"))

    def sweep(self, now: float) -> None:
        """End what has reached its deadline."""
        for task in list(self._tasks):
            if now >= task.wake:
                self._progress(task)
        for descriptor in [key for key, client in self._clients.items() if now >= client.deadline]:
            self._drop(descriptor)

    def _read(self, client: _Client) -> None:
        chunk = client.sock.recv(65536)
        if not chunk:
            self._drop(client.sock.fileno())
        elif not client.answered and client.waits is None:
            client.data += chunk
            head, end, _ = client.data.partition(b"\r\n\r\n")
            if end:
                self._route(client, head.decode("latin-1"))
            elif len(client.data) > _MAX_HEAD_BYTES:
                self._answer(client, 400, "the request's head is too long\n")

    def _route(self, client: _Client, head: str) -> None:
        line, *rest = head.split("\r\n")
        words = line.split(" ")
        fields = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._answer(client, 400, "this is no HTTP request\n")
            return
        if client.token is not None and not _compare_digest(
            fields.get("authorization", "").encode("latin-1", "replace"), f"Bearer {client.token}".encode()
        ):
            self._answer(client, 401, "this server wants `Authorization: Bearer` with the token it was started with\n")
            return
        if client.loopback and self._is_a_web_page(fields):
            self._answer(client, 403, "the request looks like a web page's: it names another host or site\n")
            return
        method, (path, _, query) = words[0], words[1].partition("?")
        if path in ("/handler", protocol.HANDLER_PATH) and method in ("GET", "HEAD"):
            self._answer(client, 200, as_json(self._state.handlers()), "application/json")
        elif not path.startswith(protocol.HANDLER_PATH):
            self._answer(client, 404, f"no such route: {path}\n{protocol.ROUTES}")
        elif method != "POST":
            self._answer(client, 405, f"{method} is not served at {path}; use POST\n")
        else:
            self._handle(client, path[len(protocol.HANDLER_PATH) :], query)

    def _is_a_web_page(self, fields: dict[str, str]) -> bool:
        """Whether a request names a host that is not this one, or comes from a page (browsers say so in a POST)."""
        host = fields.get("host", "localhost").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
        own = {"localhost", self._state.worker.host.lower(), self._state.worker.address.rpartition(":")[0].lower()}
        return "origin" in fields or not (name in own or _is_loopback(name))

    def _handle(self, client: _Client, name: str, query: str) -> None:
        if name == "ping":
            self._answer(client, 200, self._state.sentence())
        elif name == "info":
            self._answer(client, 200, as_json(self._state.info()), "application/json")
        elif name == "dump_traceback":
            self._wait_for(client, self._running(Stacks) or Stacks(self._state, self._dump))
        elif name in NATIVE_HANDLERS and self._state.worker.native:
            self._wait_for(client, Relayed(self._state.worker.native, f"{name}?{query}" if query else name))
        else:
            words = f"the worker cannot answer: {self._state.sentence()}\nits sentinel has no {name!r}\n"
            self._answer(client, 503, words)

    def _running(self, kind: type[Stacks]) -> Stacks | None:
        return next((task for task in self._tasks if isinstance(task, kind)), None)

    def _wait_for(self, client: _Client, task: Stacks | Relayed) -> None:
        client.waits = task
        if task not in self._tasks:
            self._tasks.append(task)
            if task.descriptor >= 0:
                self._poll.register(task.descriptor, task.events)
        self._progress(task)

    def _progress(self, task: Stacks | Relayed) -> None:
        """Let a task go on; when it is done, answer whoever waits for it."""
        before = task.descriptor
        task.step()
        if task.descriptor != before or task.answer is not None:
            if before >= 0:
                self._poll.unregister(before)
            if task.answer is None and task.descriptor >= 0:
                self._poll.register(task.descriptor, task.events)
        elif before >= 0:
            self._poll.modify(before, task.events)
        if task.answer is None:
            return
        task.close()
        self._tasks.remove(task)
        status, body, content_type = task.answer
        for client in [one for one in self._clients.values() if one.waits is task]:
            client.waits = None
            self._answer(client, status, body, content_type)

    def _answer(
        self, client: _Client, status: int, body: str | bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        data = body.encode("utf-8", "replace") if isinstance(body, str) else body
        head = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}",
            f"Server: torchctl/{self._state.worker.version} sentinel",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *self._state.header_lines(),
        ]
        client.answered = True
        client.out = "\r\n".join([*head, "\r\n"]).encode("ascii", "replace") + data
        try:
            self._write(client)
        except (BlockingIOError, InterruptedError):
            self._poll.modify(client.sock, select.POLLOUT)
        except OSError:
            self._drop(client.sock.fileno())

    def _write(self, client: _Client) -> None:
        client.out = client.out[client.sock.send(client.out, socket.MSG_NOSIGNAL) :]
        if client.out:
            self._poll.modify(client.sock, select.POLLOUT)
            return
        self._poll.modify(client.sock, select.POLLIN)
        client.sock.shutdown(socket.SHUT_WR)
        client.deadline = min(client.deadline, time.monotonic() + protocol.DRAIN_TIMEOUT_S)

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor)
        self._poll.unregister(descriptor)
        client.sock.close()


def _is_loopback(address: str) -> bool:
    parts = address.removeprefix("::ffff:").split(".")
    return address == "::1" or (len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts))


def _peer_uid(sock: socket.socket) -> int:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return -1
    return int(_CREDENTIALS.unpack(data)[1])
