"""HTTP in the worker's place: one thread, a few clients, the three requests that can be answered from outside.

How this works: we read from a client until its head is complete, answer once, and then read until it closes, so that
what it still sends does not lose the answer. Each client has one deadline for all of that. Stacks take a while: clients
that ask in the meantime get the same ones. The rules are the worker's: `head` parses a request, and `verdict` decides
whether to serve it.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Mapping

from torchctl import protocol
from torchctl.server.http.gate import Gate, peer_problem
from torchctl.server.http.head import BadRequest, read_head, status_line
from torchctl.server.http.verdict import Refused, Route, judge
from torchctl.server.sentinel.outside import Stacks
from torchctl.server.sentinel.relayed import Relayed
from torchctl.server.sentinel.state import NATIVE_HANDLERS, State, as_json

_MAX_CLIENTS = 32
_MAX_HEAD_BYTES = 16384
_CLIENT_S = 20.0  # from accept to close; py-spy takes up to 10 of them
_ENDS = (b"\r\n\r\n", b"\n\n")  # of a head


class _Client:
    """One connection: `waits` for stacks or a relayed trace, or is being written to while `out` is not empty.

    Attributes:
        held: the answer to a wrong token, to be sent at `wake` in `time.monotonic` seconds.
    """

    __slots__ = ("answered", "data", "deadline", "gate", "held", "out", "sock", "waits", "wake")

    def __init__(self, sock: socket.socket, gate: Gate) -> None:
        self.sock = sock
        self.gate = gate
        self.data = b""
        self.out = b""
        self.answered = False
        self.waits: Stacks | Relayed | None = None
        self.held: Refused | None = None
        self.wake = float("inf")
        self.deadline = time.monotonic() + _CLIENT_S


class Desk:
    """Accepts clients and answers them.

    Args:
        poll: the loop's; clients and the tasks' descriptors are registered with it.
        dump: the memfd that a signal makes the worker's interpreter write its stacks to.
    """

    def __init__(self, state: State, poll: select.poll, dump: int | None) -> None:
        self._state = state
        self._poll = poll
        self._dump = dump
        self._clients: dict[int, _Client] = {}
        self._tasks: list[Stacks | Relayed] = []

    def accept(self, listening: socket.socket, gate: Gate) -> None:
        """Accept one connection, unless the worker was quicker."""
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients)))
        client = _Client(sock, gate)
        self._clients[sock.fileno()] = client
        self._poll.register(sock, select.POLLIN)
        try:
            problem = peer_problem(sock) if sock.family == socket.AF_UNIX else ""
        except OSError:
            self._drop(sock.fileno())
            return
        if problem:
            self._answer(client, 403, f"{problem}\n")

    def close(self) -> None:
        """Hang up on all clients."""
        for task in self._tasks:
            if task.descriptor >= 0:
                self._poll.unregister(task.descriptor)
            task.close()
        self._tasks.clear()
        for descriptor in list(self._clients):
            self._drop(descriptor)

    def attend(self, descriptor: int) -> None:
        """Handle a descriptor that is ready."""
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
        """Return when `sweep` next has something to do, in `time.monotonic` seconds; infinity without clients."""
        deadlines = [min(client.deadline, client.wake) for client in self._clients.values()]
        return min(deadlines + [task.wake for task in self._tasks], default=float("inf"))

    def sweep(self, now: float) -> None:
        """Handle whatever has reached its deadline."""
        for task in list(self._tasks):
            if now >= task.wake:
                self._progress(task)
        for client in [one for one in self._clients.values() if one.held is not None and now >= one.wake]:
            refused, client.held, client.wake = client.held, None, float("inf")
            if refused is not None:
                self._refuse(client, refused)
        for descriptor in [key for key, client in self._clients.items() if now >= client.deadline]:
            self._drop(descriptor)

    def _read(self, client: _Client) -> None:
        chunk = client.sock.recv(65536)
        if not chunk:
            self._drop(client.sock.fileno())
        elif not client.answered and client.waits is None and client.held is None:
            client.data += chunk
            if any(end in client.data for end in _ENDS):
                self._listen(client)
            elif len(client.data) > _MAX_HEAD_BYTES:
                self._answer(client, 400, "the request headers are too long\n")

    def _listen(self, client: _Client) -> None:
        try:
            head = read_head(io.BytesIO(client.data))
        except BadRequest as bad:
            self._answer(client, bad.status, f"{bad.text}\n")
            return
        if head is None:
            return
        verdict = judge(head, client.gate, self._state.worker.costly.__contains__)
        if not isinstance(verdict, Refused):
            if verdict.route is Route.NAMES:
                self._answer(client, 200, as_json(self._state.handlers()), "application/json")
            else:
                self._handle(client, verdict.handler, head.query)
        elif verdict.wrong_token:
            client.held, client.wake = verdict, time.monotonic() + protocol.WRONG_TOKEN_DELAY_S
        else:
            self._refuse(client, verdict)

    def _refuse(self, client: _Client, refused: Refused) -> None:
        self._answer(client, refused.status, f"{refused.text}\n", headers=refused.headers)

    def _handle(self, client: _Client, name: str, query: str) -> None:
        if name == "ping":
            self._answer(client, 200, "pong" if self._state.degraded is None else self._state.sentence())
        elif name == "info":
            self._answer(client, 200, as_json(self._state.info()), "application/json")
        elif name == "dump_traceback":
            self._wait_for(client, self._running(Stacks) or Stacks(self._state, self._dump))
        elif name in NATIVE_HANDLERS and self._state.worker.native:
            self._wait_for(client, Relayed(self._state.worker.native, f"{name}?{query}" if query else name))
        else:
            why = "the worker could not answer for a moment and has recovered: ask again"
            if self._state.degraded is not None:
                why = f"the worker cannot answer: {self._state.sentence()}"
            lacks = repr(name) if name else "index page"
            self._answer(client, 503, f"{why}\nits sentinel has no {lacks}\n", outside=True)

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
        """Let a task make progress; when it is done, answer the clients that wait for it."""
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
            self._answer(client, status, body, content_type, outside=True)

    def _answer(
        self,
        client: _Client,
        status: int,
        body: str | bytes,
        content_type: str = "text/plain; charset=utf-8",
        *,
        headers: Mapping[str, str] | None = None,
        outside: bool = False,
    ) -> None:
        data = body.encode("utf-8", "replace") if isinstance(body, str) else body
        head = [
            status_line(status),
            f"Server: torchctl/{self._state.worker.version} sentinel",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            *self._state.header_lines(outside=outside),
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
