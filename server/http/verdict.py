"""Whether a request is served, and as what: one pure function that server and sentinel both ask.

How this works: the questions come in the order in which an answer gives away least. Is it a web page that asks, does
the client know the token: who fails here is a stranger, and learns nothing of the worker but its rank. Then what is
wanted: a route that there is, by the right method, and a handler that a read-only server does not switch off.
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
    """What there is to ask for."""

    INDEX = "/"
    NAMES = "/handler/"
    HANDLER = "/handler/NAME"


class Served(NamedTuple):
    """A request to be answered; `handler` is the name that it asks for, "" on the other routes."""

    route: Route
    handler: str = ""


class Refused(NamedTuple):
    """A request to be refused.

    Attributes:
        status, text: of the answer.
        allow: the methods that the route takes, where the method was wrong.
        stranger: the client may not ask here at all.
        wrong_token: it came with a token, and with the wrong one: the answer has to wait.
    """

    status: int
    text: str
    allow: str = ""
    stranger: bool = False
    wrong_token: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that HTTP wants with such a status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Allow": self.allow} if self.allow else {}


def judge(head: Head, gate: Gate, is_costly: Callable[[str], bool]) -> Served | Refused:
    """Decide on one request.

    Args:
        gate: the rules of the listener that it came to.
        is_costly: whether a handler changes or costs something, by its name.
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
