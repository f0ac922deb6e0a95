"""`ping`: shows that the worker is alive and its interpreter runs."""

from __future__ import annotations

from torchctl.server.request import Request, Response


def ping(request: Request, response: Response) -> None:
    """Answer with ``pong``."""
    response.set_content("pong", "text/plain")
    response.set_status(200)
