"""One client's connection: read requests under a deadline, have them answered, write the answers.

How this works: one thread runs `serve` from the first byte to the close. All bytes go through a `Channel`, which
touches no descriptor that the trainer has taken away; `DeadlineReader` makes sure that no client holds the thread by
sending slowly. `verdict` decides whether to serve a request, before its body is read; `dispatch` makes the answer.
Nothing here prints, logs, or lets an exception out.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from typing import TYPE_CHECKING, Protocol

from torchctl import __version__, protocol
from torchctl.protocol.identity import Identity
from torchctl.server import registry
from torchctl.server.guest import guesses, identity
from torchctl.server.http import gate, pacing
from torchctl.server.http.channel import Stream
from torchctl.server.http.connections import Connections, Slot
from torchctl.server.http.deadline import DeadlineReader
from torchctl.server.http.dispatch import respond
from torchctl.server.http.head import BadRequest, Head, read_head, status_line
from torchctl.server.http.verdict import Refused, Served, judge
from torchctl.server.request import Response

if TYPE_CHECKING:
    from torchctl.server.http.tls import ServerTls

_ONE_WRITE_BYTES = 65536
_PATIENCE_S = 1.0  # for the first byte of a client for which others have to wait


class Host(Protocol):
    """What a connection needs from the listener that accepted it."""

    gate: gate.Gate
    tls: ServerTls | None
    connections: Connections
    allow_pause: bool
    pid: int


class Connection:
    """Serves one client until it closes, idles too long, or breaks the rules.

    Args:
        slot: its place in the table of connections.
        host: the listener that accepted it.
        only_one: whether to close after the first answer, because other clients wait for this thread.
    """

    def __init__(self, slot: Slot, host: Host, *, only_one: bool = False) -> None:
        self._slot = slot
        self._host = host
        self._channel = slot.channel
        self._stream: Stream = slot.channel
        self._reader = DeadlineReader(self._stream)
        self._file = io.BufferedReader(self._reader, protocol.MAX_LINE_BYTES)
        self._head: Head | None = None
        self._closing = False
        self._only_one = only_one
        if only_one:
            self._reader.deadline = time.monotonic() + _PATIENCE_S

    def serve(self) -> None:
        """Admit the client, then serve its requests."""
        try:
            self._let_in()
            while not self._closing:
                self._serve_one()
        except BadRequest as bad:
            with contextlib.suppress(OSError, ValueError):
                self._refuse(Refused(bad.status, bad.text, stranger=True))
        except (OSError, ValueError):
            pass  # the handshake failed, or the client is gone or was hung up to make room

    def _let_in(self) -> None:
        """Check the peer of a Unix socket; on a TLS port, perform the handshake within the time of one request.

        Raises:
            BadRequest: another user's process, or a client without TLS on a TLS port.
            OSError: the handshake failed.
        """
        if self._channel.family == socket.AF_UNIX:
            problem = gate.peer_problem(self._channel.socket)
            if problem:
                raise BadRequest(403, problem)
        elif self._host.tls is not None:
            from torchctl.server.http.tls import is_tls

            if not is_tls(self._channel, self._reader.deadline):
                raise BadRequest(426, protocol.TLS_WANTED)
            secured = self._host.tls.over(self._channel)
            secured.shake_hands(self._reader.deadline)
            self._stream = secured
            self._reader.read_through(secured)

    def _serve_one(self) -> None:
        """Serve one request.

        Raises:
            BadRequest: malformed, too large, or too slow.
            OSError: the client is gone.
        """
        self._closing = True
        self._head = None
        try:
            self._head = head = read_head(self._file)
            if head is None:
                return
            verdict = judge(head, self._host.gate, registry.is_costly)
            let_in = isinstance(verdict, Served) or not verdict.stranger
            body = self._read_body(head) if let_in else b""
        except TimeoutError:
            if self._reader.silent:
                return
            raise BadRequest(408, f"the request was not complete after {protocol.REQUEST_TIMEOUT_S:g}s") from None
        if isinstance(verdict, Refused) and verdict.stranger:
            self._refuse(verdict)
            return
        self._closing = self._only_one or not head.keeps_open
        self._slot.waiting_since = None
        response = self._answer(verdict, head, body)
        self._slot.waiting_since = time.monotonic()  # from here on we wait for the client
        self._send(response)
        self._reader.next_request()

    def _read_body(self, head: Head) -> bytes:
        size = head.body_bytes
        if size and head.fields.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._file.read(size) if size else b""
        if len(body) < size:
            raise BadRequest(400, f"the body ended after {len(body)} of {size} bytes")
        return body

    def _answer(self, verdict: Served | Refused, head: Head, body: bytes) -> Response:
        if isinstance(verdict, Refused):
            return _refusal(verdict)
        host = self._host
        try:
            return respond(verdict, head, body, read_only=host.gate.read_only, allow_pause=host.allow_pause)
        except BadRequest as bad:
            return _refusal(Refused(bad.status, bad.text))

    def _refuse(self, refused: Refused) -> None:
        """Answer a bad request in its turn, then drain what still arrives, so that the answer is not lost."""
        self._closing = True
        if refused.wrong_token:
            guesses.note()
            self._channel.pause(protocol.WRONG_TOKEN_DELAY_S)
        wait_s = pacing.refusals.turn()
        if wait_s and not self._host.connections.crowded:
            self._channel.pause(wait_s)
        self._send(_refusal(refused), stranger=True)
        self._slot.waiting_since = time.monotonic()
        self._channel.finish_sending()
        self._channel.drain(protocol.DRAIN_TIMEOUT_S)

    def _send(self, response: Response, *, stranger: bool = False) -> None:
        """Write an answer; a stranger learns only the rank, for its error message."""
        head = [
            status_line(response.status),
            f"Server: torchctl/{__version__}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.content)}",
        ]
        who = identity.of_process(self._host.pid)
        head += (Identity(who.rank) if stranger else who).header_lines()
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        if self._closing:
            head.append("Connection: close")
        elif self._head is not None and self._head.minor == 0:
            head.append("Connection: keep-alive")
        data = "\r\n".join([*head, "\r\n"]).encode("ascii")
        body = b"" if self._head is not None and self._head.method == "HEAD" else response.content
        if len(body) <= _ONE_WRITE_BYTES:
            self._write(data + body)
        else:
            self._write(data)
            self._write(body)

    def _write(self, data: bytes) -> None:
        self._stream.send(data, time.monotonic() + protocol.SEND_TIMEOUT_S)


def _refusal(refused: Refused) -> Response:
    response = Response()
    response.set_content(refused.text + "\n", "text/plain")
    response.set_status(refused.status)
    for name, value in refused.headers.items():
        response.set_header(name, value)
    return response
