"""HTTP on the wire: a request's head from any buffered stream, and the first line of a response."""

from __future__ import annotations

import contextlib
import re
from typing import NamedTuple, Protocol

from torchctl import protocol

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/(\d)\.(\d)")
# Only the statuses that we send ourselves; a user's handler may choose any.
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_REASONS |= {405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required", 413: "Content Too Large"}
_REASONS |= {414: "URI Too Long", 426: "Upgrade Required", 431: "Request Header Fields Too Large"}
_REASONS |= {500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"}
_REASONS |= {505: "HTTP Version Not Supported"}
_ONLY_ONCE = ("content-length", "transfer-encoding", "authorization", "host", "origin")


class BadRequest(Exception):
    """The client sent something that we do not serve: an HTTP status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Lines(Protocol):
    """The stream that a head is read from."""

    def readline(self, size: int, /) -> bytes: ...


class Head(NamedTuple):
    """A request without its body.

    Attributes:
        minor: 0 or 1, of HTTP/1.x.
        host: the host that the client thinks it is talking to, or None if it does not say.
        fields: header fields by lower-case name.
    """

    method: str
    path: str
    query: str
    minor: int
    host: str | None
    fields: dict[str, str]

    @property
    def keeps_open(self) -> bool:
        """Return whether the client may send another request on this connection."""
        options = {option.strip() for option in self.fields.get("connection", "").lower().split(",")}
        return "close" not in options and (self.minor != 0 or "keep-alive" in options)

    @property
    def body_bytes(self) -> int:
        """Return the length of the body.

        Raises:
            BadRequest: the body is chunked or too long, or its length is not a number.
        """
        if "transfer-encoding" in self.fields:
            raise BadRequest(411, "send Content-Length; chunked bodies are not supported")
        length = self.fields.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise BadRequest(400, "Content-Length is not a number")
        if int(length) > protocol.MAX_BODY_BYTES:
            raise BadRequest(413, f"the body is larger than {protocol.MAX_BODY_BYTES} bytes")
        return int(length)


def read_head(stream: Lines) -> Head | None:
    """Read the head of one request, or return None at the end of the stream.

    Raises:
        BadRequest: it is malformed or too large.
    """
    line = _line(stream)
    if line in (b"\r\n", b"\n"):  # RFC 9112 2.2: tolerate an empty line before the request
        line = _line(stream)
    if not line:
        return None
    if len(line) > protocol.MAX_LINE_BYTES:
        raise BadRequest(414, f"the request line is longer than {protocol.MAX_LINE_BYTES} bytes")
    match = _REQUEST_LINE.fullmatch(line.rstrip(b"\r\n"))
    if match is None or not line.endswith(b"\n"):
        raise BadRequest(400, "this is not an HTTP request")
    if match[3] != b"1":
        raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    fields = _read_fields(stream)
    target, host = match[2].decode("ascii"), fields.get("host")
    if target.lower().startswith("http://"):  # absolute form, as through a proxy; its host overrides Host
        host, _, rest = target[7:].partition("/")
        target = f"/{rest}"
    path, _, query = target.partition("?")
    return Head(match[1].decode("ascii"), path, query, int(match[4]), host, fields)


def _read_fields(stream: Lines) -> dict[str, str]:
    fields: dict[str, str] = {}
    for _ in range(protocol.MAX_HEADERS + 1):
        line = _line(stream)
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
        if key in fields and key in _ONLY_ONCE:
            raise BadRequest(400, f"the header {key} appears twice")
        fields[key] = value.strip().decode("latin-1")
    raise BadRequest(431, f"more than {protocol.MAX_HEADERS} headers")


def _line(stream: Lines) -> bytes:
    return stream.readline(protocol.MAX_LINE_BYTES + 1)


def status_line(status: int) -> str:
    """Return the first line of a response."""
    if status not in _REASONS:
        from http import HTTPStatus  # late: 62 members that are rarely needed

        with contextlib.suppress(ValueError):
            return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"
