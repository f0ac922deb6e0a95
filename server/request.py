"""What a handler receives and what it fills in: a `Request` and a `Response`."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Request:
    """One request to a handler.

    Args:
        params: query parameters (and form fields from the body) by name.
        body: the request's body, at most 1 MiB.
        allow_pause: whether the server was started with permission to stop this process for a moment.

    Source: torch/csrc/distributed/c10d/control_plane/Handlers.hpp, class Request (torch 2.13).
    """

    def __init__(
        self, params: Mapping[str, str] | None = None, body: bytes = b"", *, allow_pause: bool = False
    ) -> None:
        self.allow_pause = allow_pause
        self._params = dict(params or {})
        self._body = body

    def body(self) -> bytes:
        """Return the request's body."""
        return self._body

    def params(self) -> dict[str, str]:
        """Return all parameters by name; the caller owns the dictionary."""
        return dict(self._params)

    def get_param(self, name: str) -> str:
        """Return one parameter, or the empty string if it is absent."""
        return self._params.get(name, "")


class Response:
    """What a handler answers: by default 200 with an empty body.

    Source: torch/csrc/distributed/c10d/control_plane/Handlers.hpp, class Response (torch 2.13).
    """

    def __init__(self) -> None:
        self.status = 200
        self.content = b""
        self.content_type = "text/plain"
        self.headers: dict[str, str] = {}

    def set_content(self, content: str | bytes, content_type: str) -> None:
        """Set the body; text is sent as UTF-8.

        Raises:
            ValueError: the content type contains a control character or is not ASCII.
        """
        self.content = (
            content.encode("utf-8", "backslashreplace") if isinstance(content, str) else bytes(memoryview(content))
        )
        self.content_type = _header_value(content_type)

    def set_status(self, status: int) -> None:
        """Set the HTTP status.

        Raises:
            ValueError: it is not a final status, 200 to 599.
        """
        if not 200 <= int(status) <= 599:
            raise ValueError(f"{status} is not a final HTTP status")
        self.status = int(status)

    def set_header(self, name: str, value: str) -> None:
        """Set another response header.

        Raises:
            ValueError: the name or value contains a control character or is not ASCII.
        """
        self.headers[_header_value(name)] = _header_value(value)


Handler = Callable[[Request, Response], None]


def _header_value(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"{text!r} cannot be sent in an HTTP header")
    return text
