"""How a handler refuses a request: with a status and a sentence."""

from __future__ import annotations

from functools import wraps

from torchctl.server.request import Handler, Request, Response


class Refusal(Exception):
    """Ends a handler with an HTTP status (4xx or 5xx) and one sentence for the operator."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def answering(function: Handler) -> Handler:
    """Wrap a handler so that a `Refusal` becomes its response."""

    @wraps(function)
    def call(request: Request, response: Response) -> None:
        try:
            function(request, response)
        except Refusal as refusal:
            response.set_content(str(refusal) + "\n", "text/plain")
            response.set_status(refusal.status)

    return call
