"""HTTP/1.1 as bytes: write a request, and parse a response piece by piece with llhttp (`httptools`). No I/O."""

from __future__ import annotations

import httptools

from torchctl.errors import TooLargeError
from torchctl.workers.ask.reply import Reply, make_reply
from torchctl.workers.ask.request import Request, request_headers
from torchctl.workers.endpoint import Endpoint

_MAX_HEAD_BYTES = 1 << 16


def request_bytes(endpoint: Endpoint, request: Request) -> bytes:
    """Return the bytes of the request."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host or "localhost"
    where = f"{host}:{endpoint.port}" if endpoint.port else host
    head = [f"{request.method} {request.path} HTTP/1.1", f"Host: {where}"]
    head += [f"{name}: {value}" for name, value in request_headers(endpoint).items()]
    if request.method == "POST":
        head.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join([*head, "\r\n"]).encode("latin-1") + (request.body if request.method == "POST" else b"")


class ResponseParser:
    """Parses a response whose bytes arrive in arbitrary pieces.

    Args:
        max_bytes: limit on the body.

    Attributes:
        complete: whether the whole response has arrived.
    """

    def __init__(self, max_bytes: int) -> None:
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._max_bytes = max_bytes
        self._headers: dict[str, str] = {}
        self._in_body = False
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Parse the next bytes; ``b""`` means that the connection was closed.

        Raises:
            ValueError: this is not an HTTP response.
            ConnectionResetError: the connection was closed in the middle of the response.
            TooLargeError: the body exceeds the limit.
        """
        if not data:
            # Without a length, closing the connection ends the body.
            if not self._in_body or self._headers.keys() & {"content-length", "transfer-encoding"}:
                raise ConnectionResetError("the connection closed early")
            self.complete = True
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise ValueError(str(error)) from error
        if self._size > self._max_bytes:
            raise TooLargeError(f"sent more than {self._max_bytes} bytes", endpoint="")
        if not self._in_body and not self.complete and self._head_bytes > _MAX_HEAD_BYTES:
            raise ValueError("the response headers never end")

    def reply(self, elapsed_s: float) -> Reply:
        """Return the complete response."""
        return make_reply(self._parser.get_status_code(), b"".join(self._chunks), self._headers, elapsed_s)

    # Callbacks for httptools:

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._size += len(body)
        if self._size <= self._max_bytes:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue and so on: the answer follows
            self._headers.clear()
            self._in_body = False
            return
        self.complete = True
