"""One client connection: reads requests under a deadline, calls handlers, writes answers.

How this works: `http.server` gives the frame (one handler object per connection, `handle` calling
`handle_one_request` until the connection closes). Three parts are our own. Reading goes through
`DeadlineReader`, so that no client can hold a thread by sending slowly. Headers are parsed into a plain
dictionary, since the email parser behind `http.client` costs more than all the rest of a ping. And an answer
is one `send` with MSG_NOSIGNAL: a trainer that has restored SIGPIPE's default must not die of a client that
hangs up. Nothing here prints, logs, or lets an exception out.
"""

from __future__ import annotations

import io
import re
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from torchctl import __version__, protocol
from torchctl.server import identity, registry
from torchctl.server.deadline import DeadlineReader
from torchctl.server.request import Request, Response

if TYPE_CHECKING:
    from torchctl.server.connections import Slot
    from torchctl.server.listener import Listener

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/(\d)\.(\d)")
_REASON = {int(status): status.phrase for status in HTTPStatus}
_FORM = "application/x-www-form-urlencoded"
# As cpp-httplib, torch's HTTP library, reads form bodies: up to this size (CPPHTTPLIB_FORM_URL_ENCODED...).
_FORM_BYTES = 8192
_ONE_WRITE_BYTES = 65536


class BadRequest(Exception):
    """What the client sent is no request that we serve: an HTTP status and one sentence."""

    def __init__(self, status: int, text: str, *, allow: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.allow = allow


class Connection(BaseHTTPRequestHandler):
    """Serves one client until it closes, idles too long, or breaks the rules."""

    server: Listener
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.connection = self.request
        self.slot: Slot = self.server.connections.slot_of(self.request)
        self.reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self.reader, protocol.MAX_LINE_BYTES)
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
            response = self._answer()
            self.slot.waiting_since = time.monotonic()  # from here on for the client to read, and to ask again
            self._send(response)
            self.reader.next_request()
        except (OSError, ValueError):
            self.close_connection = True  # the client is gone, or was closed to make room

    def finish(self) -> None:
        """Close nothing here: the listener closes the socket, and there is no write buffer to flush."""

    def parse_request(self) -> bool:
        """Read one request; False when the client has closed or stayed idle instead of sending one.

        Raises:
            BadRequest: malformed, too large, too slow, or without the token.
        """
        try:
            line = self._line()
            if line in (b"\r\n", b"\n"):  # RFC 9112 2.2: tolerate an empty line before the request
                line = self._line()
            if not line:
                return False
            self._request_line(line)
            self.fields = self._read_fields()
            self._check_token()
            self.body = self._read_body()
        except TimeoutError:
            if self.reader.silent:
                return False
            raise BadRequest(408, f"the request was not complete within {protocol.REQUEST_TIMEOUT_S:g} s") from None
        options = {option.strip() for option in self.fields.get("connection", "").lower().split(",")}
        self.close_connection = "close" in options or (self.minor == 0 and "keep-alive" not in options)
        return True

    def _line(self) -> bytes:
        return self.rfile.readline(protocol.MAX_LINE_BYTES + 1)

    def _request_line(self, line: bytes) -> None:
        if len(line) > protocol.MAX_LINE_BYTES:
            raise BadRequest(414, f"the request line is longer than {protocol.MAX_LINE_BYTES} bytes")
        match = _REQUEST_LINE.fullmatch(line.rstrip(b"\r\n"))
        if match is None or not line.endswith(b"\n"):
            raise BadRequest(400, "this is no HTTP request")
        if match[3] != b"1":
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        self.command = match[1].decode("ascii")
        self.minor = int(match[4])
        target = match[2].decode("ascii")
        if target.lower().startswith("http://"):  # absolute form, as through a proxy
            target = "/" + target[7:].partition("/")[2]
        path, _, query = target.partition("?")
        self.path, self.query = path, query

    def _read_fields(self) -> dict[str, str]:
        """Return the header fields by lower-case name."""
        fields: dict[str, str] = {}
        for _ in range(protocol.MAX_HEADERS + 1):
            line = self._line()
            if line in (b"\r\n", b"\n"):
                return fields
            if not line.endswith(b"\n"):
                if len(line) > protocol.MAX_LINE_BYTES:
                    raise BadRequest(431, f"a header is longer than {protocol.MAX_LINE_BYTES} bytes")
                raise BadRequest(400, "the request ended inside its headers")
            name, colon, value = line.partition(b":")
            if not colon or not name or name.strip() != name:
                raise BadRequest(400, "a header line has no name, or space around it")
            key = name.decode("latin-1").lower()
            if key in fields and key in ("content-length", "transfer-encoding", "authorization", "host"):
                raise BadRequest(400, f"the header {key} is there twice")
            fields[key] = value.strip().decode("latin-1")
        raise BadRequest(431, f"more than {protocol.MAX_HEADERS} headers")

    def _check_token(self) -> None:
        if not self.server.accepts(self.fields.get("authorization", "")):
            raise BadRequest(401, "this server wants `Authorization: Bearer` with the token it was started with")

    def _read_body(self) -> bytes:
        if "transfer-encoding" in self.fields:
            raise BadRequest(411, "send Content-Length; chunked bodies are not read here")
        length = self.fields.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise BadRequest(400, "Content-Length is no number")
        size = int(length)
        if size > protocol.MAX_BODY_BYTES:
            raise BadRequest(413, f"the body is larger than {protocol.MAX_BODY_BYTES} bytes")
        if size and self.fields.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(size) if size else b""
        if len(body) < size:
            raise BadRequest(400, f"the body ended after {len(body)} of {size} bytes")
        return body

    def _answer(self) -> Response:
        """Return the route's response: 404 for no such route, 405 for the wrong method."""
        try:
            return self._route(self.path)
        except BadRequest as bad:
            return _refusal(bad)

    def _route(self, path: str) -> Response:
        if path == "/":
            return self._get(protocol.INDEX_PAGE, "text/html")
        if path in ("/handler", protocol.HANDLER_PATH):
            return self._get(protocol.compact_json(registry.get_handler_names()), "application/json")
        if not path.startswith(protocol.HANDLER_PATH):
            raise BadRequest(404, f"no such route: {path}\n{protocol.ROUTES}")
        if self.command != "POST":
            raise BadRequest(405, f"{self.command} is not served at {path}; use POST", allow="POST")
        request = Request(self._params(), self.body, allow_pause=self.server.allow_pause)
        return run_handler(unquote(path[len(protocol.HANDLER_PATH) :]), request)

    def _get(self, content: str, content_type: str) -> Response:
        if self.command not in ("GET", "HEAD"):
            raise BadRequest(405, f"{self.command} is not served at {self.path}; use GET", allow="GET, HEAD")
        response = Response()
        response.set_content(content, content_type)
        return response

    def _params(self) -> dict[str, str]:
        """Return query parameters, and a small form body's fields after them; the first of a name counts."""
        if not self.query and not self.body:
            return {}
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, max_num_fields=protocol.MAX_PARAMS)
            if self.fields.get("content-type", "").startswith(_FORM) and len(self.body) <= _FORM_BYTES:
                form = self.body.decode("latin-1")
                pairs += parse_qsl(form, keep_blank_values=True, max_num_fields=protocol.MAX_PARAMS)
        except ValueError:
            raise BadRequest(400, f"more than {protocol.MAX_PARAMS} parameters") from None
        params: dict[str, str] = {}
        for name, value in pairs:
            params.setdefault(name, value)
        return params

    def _refuse(self, bad: BadRequest) -> None:
        """Answer a bad request, then read a little of what still comes, so that the answer is not lost."""
        self._send(_refusal(bad))
        self.slot.waiting_since = time.monotonic()
        self.connection.shutdown(socket.SHUT_WR)
        self.reader.drain(protocol.DRAIN_TIMEOUT_S)

    def _send(self, response: Response) -> None:
        head = [
            f"HTTP/1.1 {response.status} {_REASON.get(response.status, 'Status')}",
            f"Server: torchctl/{__version__}",
            f"{protocol.PID_HEADER}: {self.server.pid}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.content)}",
        ]
        head += identity.header_lines()
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        if self.close_connection:
            head.append("Connection: close")
        elif getattr(self, "minor", 1) == 0:
            head.append("Connection: keep-alive")
        data = "\r\n".join([*head, "\r\n"]).encode("ascii")
        body = b"" if getattr(self, "command", "") == "HEAD" else response.content
        if len(body) <= _ONE_WRITE_BYTES:
            self._write(data + body)
        else:
            self._write(data)
            self._write(body)

    def _write(self, data: bytes) -> None:
        self.connection.settimeout(protocol.SEND_TIMEOUT_S)
        self.connection.sendall(data, socket.MSG_NOSIGNAL)


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
