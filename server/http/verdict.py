"""Whether to serve a request, and on which route: one pure function, used by both the server and the sentinel.

How this works: the checks are in the order that gives away the least. First, is this a web page, and does the client
know the token? A client that fails here is a stranger, and learns only the worker's rank. Then, does the route exist,
is the method right, and is the handler on, if the server is read-only?
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from torchctl import protocol
from torchctl.server.http.gate import Gate
from torchctl.server.http.head import Head
from torchctl.server.http.query import unquoted


class Route(Enum):
    """The routes."""

    INDEX = "/"
    NAMES = "/handler/"
    HANDLER = "/handler/NAME"


class Served(NamedTuple):
    """A request to serve; `handler` is the handler's name, or "" on the other routes."""

    route: Route
    handler: str = ""


class Refused(NamedTuple):
    """A request to refuse.

    Attributes:
        status, text: of the response.
        allow: the methods that the route accepts, if the method was wrong.
        stranger: the client may not send requests here at all.
        wrong_token: it sent a wrong token, so the response is delayed.
    """

    status: int
    text: str
    allow: str = ""
    stranger: bool = False
    wrong_token: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that HTTP requires with this status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Allow": self.allow} if self.allow else {}


def judge(head: Head, gate: Gate, is_costly: Callable[[str], bool]) -> Served | Refused:
    """Decide whether to serve one request.

    Args:
        gate: the access rules of the listener that received it.
        is_costly: returns whether a handler changes something or is expensive, by name.
    """
    problem = gate.web_problem(head.host, head.fields.get("origin"))
    if problem:
        return Refused(403, problem, stranger=True)
    authorization = head.fields.get("authorization", "")
    if not gate.knows(authorization):
        text = "this server requires `Authorization: Bearer` with the token it was started with"
        return Refused(401, text, stranger=True, wrong_token=bool(authorization))
    if head.path == "/":
        return _page(head, Route.INDEX)
    if head.path in ("/handler", protocol.HANDLER_PATH):
        return _page(head, Route.NAMES)
    if not head.path.startswith(protocol.HANDLER_PATH):
        return Refused(404, f"no such route: {head.path}\n{protocol.ROUTES}")
    if head.method != "POST":
        return Refused(405, f"{head.method} is not served at {head.path}; use POST", allow="POST")
    name = unquoted(head.path[len(protocol.HANDLER_PATH) :])
    if gate.read_only and is_costly(name):
        return Refused(403, f"Handler {name} is turned off: this server is read-only")
    return Served(Route.HANDLER, name)


def _page(head: Head, route: Route) -> Served | Refused:
    if head.method not in ("GET", "HEAD"):
        return Refused(405, f"{head.method} is not served at {head.path}; use GET", allow="GET, HEAD")
    return Served(route)
