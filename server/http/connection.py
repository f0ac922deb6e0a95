"""One client connection: reads requests under a deadline, calls handlers, writes answers.

How this works: `http.server` gives the frame (one handler object per connection, `handle` calling
`handle_one_request` until the connection closes). Three parts are our own. Reading goes through
`DeadlineReader`, so that no client can hold a thread by sending slowly. Headers are parsed into a plain
dictionary, since the email parser behind `http.client` costs more than all the rest of a ping. And an answer
is one `send` with MSG_NOSIGNAL: a trainer that has restored SIGPIPE's default must not die of a client that
hangs up (TLS has no such flag; there it helps that our threads block the signal). Who may ask is judged by the
listener's `gate`, before the request's body is read. Nothing here prints, logs, or lets an exception out.
"""

from __future__ import annotations

import contextlib
import io
import select
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from torchctl import __version__, protocol
from torchctl.protocol.identity import Identity
from torchctl.server import registry
from torchctl.server.guest import identity
from torchctl.server.http import gate, guesses, pacing
from torchctl.server.http.deadline import DeadlineReader
from torchctl.server.http.head import BadRequest, Head, read_head
from torchctl.server.request import Request, Response

if TYPE_CHECKING:
    from torchctl.server.http.connections import Slot
    from torchctl.server.http.listener import Listener

_REASON = {int(status): status.phrase for status in HTTPStatus}
_FORM = "application/x-www-form-urlencoded"
# As cpp-httplib, torch's HTTP library, reads form bodies: up to this size (CPPHTTPLIB_FORM_URL_ENCODED...).
_FORM_BYTES = 8192
_ONE_WRITE_BYTES = 65536


class Connection(BaseHTTPRequestHandler):
    """Serves one client until it closes, idles too long, or breaks the rules."""

    server: Listener
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.connection = self.request
        self.head: Head | None = None
        self.slot: Slot = self.server.connections.slot_of(self.request)
        self.reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self.reader, protocol.MAX_LINE_BYTES)
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        """Serve the client's requests, once it is let in."""
        self.close_connection = True
        try:
            self._let_in()
        except BadRequest as bad:
            with contextlib.suppress(OSError):
                self._refuse(bad)
        except OSError:
            pass  # no handshake: the client speaks another TLS, was too slow, or is gone
        else:
            super().handle()

    def _let_in(self) -> None:
        """Check the peer of a Unix socket; on a TLS port make the handshake, within the time of one request.

        Raises:
            BadRequest: another user's process, or a client without TLS where TLS is spoken.
            OSError: the handshake failed.
        """
        if self.connection.family == socket.AF_UNIX:
            problem = gate.peer_problem(self.connection)
            if problem:
                raise BadRequest(403, problem)
        elif self.server.gate.tls is not None:
            from torchctl.server.http.tls import is_tls

            self.connection.settimeout(self.reader.left_s())
            if not is_tls(self.connection):
                raise BadRequest(426, protocol.TLS_WANTED)
            secured = self.server.gate.tls.wrap(self.connection)
            self.connection = self.slot.connection = secured
            self.reader.read_through(secured)
            secured.settimeout(self.reader.left_s())
            secured.do_handshake()

    def handle_one_request(self) -> None:
        """Serve one request; every failure ends as an answer or as a closed connection."""
        self.close_connection = True
        try:
            try:
                if not self.parse_request():
                    return
            except BadRequest as bad:
                self.close_connection = True
                self._refuse(bad)
                return
            self.slot.waiting_since = None
            assert self.head is not None
            response = self._answer(self.head)
            self.slot.waiting_since = time.monotonic()  # from here on for the client to read, and to ask again
            self._send(response)
            self.reader.next_request()
        except (OSError, ValueError):
            self.close_connection = True  # the client is gone, or was closed to make room

    def finish(self) -> None:
        """Close what TLS has made of the socket; the listener closes the plain one, and there is no buffer to flush."""
        if self.connection is not self.request:
            self.connection.close()

    def parse_request(self) -> bool:
        """Read one request; False when the client has closed or stayed idle instead of sending one.

        Raises:
            BadRequest: malformed, too large, too slow, or not to be answered to this client.
        """
        self.head = None
        try:
            self.head = head = read_head(self.rfile)
            if head is None:
                return False
            self._check_page(head)
            self._check_token(head.fields.get("authorization", ""))
            self.body = self._read_body(head)
        except TimeoutError:
            if self.reader.silent:
                return False
            raise BadRequest(408, f"the request was not complete within {protocol.REQUEST_TIMEOUT_S:g} s") from None
        self.close_connection = not head.keeps_open
        return True

    def _check_page(self, head: Head) -> None:
        problem = self.server.gate.web_problem(head.host, head.fields.get("origin"))
        if problem:
            raise BadRequest(403, problem)

    def _check_token(self, authorization: str) -> None:
        if self.server.gate.token is None:
            return
        address = str(self.client_address[0])
        wait_s = guesses.seen.turn(address) if authorization else 0.0
        if wait_s is None:
            raise BadRequest(429, "too many wrong tokens have come from your address; try again in a few seconds")
        if wait_s:
            self._pause(wait_s)
        if not self.server.gate.knows(authorization):
            if authorization:
                guesses.seen.wrong(address)
            raise BadRequest(401, "this server wants `Authorization: Bearer` with the token it was started with")

    def _pause(self, seconds: float) -> None:
        """Wait, and end early when the connection is hung up, to make room or to shut down."""
        poll = select.poll()
        poll.register(self.connection, 0)  # POLLHUP is always told
        if poll.poll(seconds * 1000):
            raise ConnectionResetError("hung up")

    def _read_body(self, head: Head) -> bytes:
        size = head.body_bytes
        if size and head.fields.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(size) if size else b""
        if len(body) < size:
            raise BadRequest(400, f"the body ended after {len(body)} of {size} bytes")
        return body

    def _answer(self, head: Head) -> Response:
        """Return the route's response: 404 for no such route, 405 for the wrong method."""
        try:
            return self._route(head)
        except BadRequest as bad:
            return _refusal(bad)

    def _route(self, head: Head) -> Response:
        path = head.path
        if path == "/":
            return _page(head, protocol.INDEX_PAGE, "text/html")
        if path in ("/handler", protocol.HANDLER_PATH):
            names = registry.get_handler_names()
            if self.server.gate.read_only:
                names = [name for name in names if not registry.is_costly(name)]
            return _page(head, protocol.compact_json(names), "application/json")
        if not path.startswith(protocol.HANDLER_PATH):
            raise BadRequest(404, f"no such route: {path}\n{protocol.ROUTES}")
        if head.method != "POST":
            raise BadRequest(405, f"{head.method} is not served at {path}; use POST", allow="POST")
        name = unquote(path[len(protocol.HANDLER_PATH) :])
        if self.server.gate.read_only and registry.is_costly(name):
            raise BadRequest(403, f"Handler {name} is switched off: this server is read-only")
        request = Request(_params(head, self.body), self.body, allow_pause=self.server.allow_pause)
        return run_handler(name, request)

    def _refuse(self, bad: BadRequest) -> None:
        """Answer a bad request in its turn, then read a little of what still comes, so that the answer is not lost."""
        wait_s = pacing.refusals.turn()
        if wait_s and not self.server.connections.crowded:
            self._pause(wait_s)
        self._send(_refusal(bad), stranger=True)
        self.slot.waiting_since = time.monotonic()
        self.connection.shutdown(socket.SHUT_WR)
        self.reader.drain(protocol.DRAIN_TIMEOUT_S)

    def _send(self, response: Response, *, stranger: bool = False) -> None:
        """Write an answer; who has not been let in as far as a handler learns the rank, for its error, and no more."""
        head = [
            f"HTTP/1.1 {response.status} {_REASON.get(response.status, 'Status')}",
            f"Server: torchctl/{__version__}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.content)}",
        ]
        who = identity.of_process(self.server.pid)
        head += (Identity(who.rank) if stranger else who).header_lines()
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        if self.close_connection:
            head.append("Connection: close")
        elif self.head is not None and self.head.minor == 0:
            head.append("Connection: keep-alive")
        data = "\r\n".join([*head, "\r\n"]).encode("ascii")
        body = b"" if self.head is not None and self.head.method == "HEAD" else response.content
        if len(body) <= _ONE_WRITE_BYTES:
            self._write(data + body)
        else:
            self._write(data)
            self._write(body)

    def _write(self, data: bytes) -> None:
        self.connection.settimeout(protocol.SEND_TIMEOUT_S)
        if self.connection is self.request:
            self.connection.sendall(data, socket.MSG_NOSIGNAL)
        else:
            self.connection.sendall(data)


def _page(head: Head, content: str, content_type: str) -> Response:
    if head.method not in ("GET", "HEAD"):
        raise BadRequest(405, f"{head.method} is not served at {head.path}; use GET", allow="GET, HEAD")
    response = Response()
    response.set_content(content, content_type)
    return response


def _params(head: Head, body: bytes) -> dict[str, str]:
    """Return query parameters, and a small form body's fields after them; the first of a name counts."""
    if not head.query and not body:
        return {}
    try:
        pairs = parse_qsl(head.query, keep_blank_values=True, max_num_fields=protocol.MAX_PARAMS)
        if head.fields.get("content-type", "").startswith(_FORM) and len(body) <= _FORM_BYTES:
            form = body.decode("latin-1")
            pairs += parse_qsl(form, keep_blank_values=True, max_num_fields=protocol.MAX_PARAMS)
    except ValueError:
        raise BadRequest(400, f"more than {protocol.MAX_PARAMS} parameters") from None
    params: dict[str, str] = {}
    for name, value in pairs:
        params.setdefault(name, value)
    return params


def _refusal(bad: BadRequest) -> Response:
    response = Response()
    response.set_content(bad.text + "\n", "text/plain")
    response.set_status(bad.status)
    if bad.allow:
        response.set_header("Allow", bad.allow)
    if bad.status == 401:
        response.set_header("WWW-Authenticate", "Bearer")
    return response


def run_handler(name: str, request: Request) -> Response:
    """Call a handler by name and return what it answered: 404 without one, 500 when it raises."""
    response = Response()
    try:
        function = registry.get_handler(name)
    except ValueError as error:
        response.set_content(f"Handler {name} not found: {error}", "text/plain")
        response.set_status(404)
        return response
    try:
        function(request, response)
    except BaseException as error:  # whatever a handler does, SystemExit included, the trainer lives on
        response = Response()
        response.set_content(f"Handler {name} failed: {_message(error)}", "text/plain")
        response.set_status(500)
    return response


def _message(error: BaseException) -> str:
    try:
        return f"{error}" or type(error).__name__
    except Exception:
        return type(error).__name__
