"""From an accepted request to its response: the pages, a handler's parameters, the handler itself."""

from __future__ import annotations

from torchctl import protocol
from torchctl.server import registry
from torchctl.server.http.head import BadRequest, Head
from torchctl.server.http.query import pairs_of
from torchctl.server.http.verdict import Route, Served
from torchctl.server.request import Request, Response

_FORM = "application/x-www-form-urlencoded"
# cpp-httplib, torch's HTTP library, reads form bodies up to this size (CPPHTTPLIB_FORM_URL_ENCODED...).
_FORM_BYTES = 8192


def respond(served: Served, head: Head, body: bytes, *, read_only: bool, allow_pause: bool) -> Response:
    """Return the response to an accepted request.

    Raises:
        BadRequest: its parameters cannot be read.
    """
    if served.route is Route.INDEX:
        return _page(protocol.INDEX_PAGE, "text/html")
    if served.route is Route.NAMES:
        names = registry.get_handler_names()
        shown = [name for name in names if not (read_only and registry.is_costly(name))]
        return _page(protocol.compact_json(shown), "application/json")
    return run_handler(served.handler, Request(_params(head, body), body, allow_pause=allow_pause))


def _page(content: str, content_type: str) -> Response:
    response = Response()
    response.set_content(content, content_type)
    return response


def _params(head: Head, body: bytes) -> dict[str, str]:
    """Return the query parameters, then the fields of a small form body; the first one with a name wins."""
    fields: list[tuple[str, str]] = []
    try:
        if head.query:
            fields += pairs_of(head.query, protocol.MAX_PARAMS)
        if body and len(body) <= _FORM_BYTES and head.fields.get("content-type", "").startswith(_FORM):
            fields += pairs_of(body.decode("latin-1"), protocol.MAX_PARAMS)
    except ValueError:
        raise BadRequest(400, f"more than {protocol.MAX_PARAMS} parameters") from None
    params: dict[str, str] = {}
    for name, value in fields:
        params.setdefault(name, value)
    return params


def run_handler(name: str, request: Request) -> Response:
    """Call a handler by name and return its response: 404 if there is none, 500 if it raises."""
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
