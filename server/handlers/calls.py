"""`calls`: what each thread of this process is calling; `torchctl.protocol.calls` describes the answer."""

from __future__ import annotations

from typing import Any

from torchctl.protocol import compact_json
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.server.handlers.parameters import check_names
from torchctl.server.request import Request, Response


def calls(request: Request, response: Response) -> None:
    """Answer with the document as JSON; takes no parameters."""
    check_names(request)
    response.set_content(compact_json(document()), "application/json")
    response.set_status(200)


def if_wanted(request: Request) -> dict[str, Any] | None:
    """Return the document to attach to another handler's answer, or None if it was not asked for."""
    if request.get_param(CALLS_PARAMETER) != "true":
        return None
    try:
        return document()
    except Exception:  # the main answer is ready; a surprise from the interpreter must not cost it
        return None


def document() -> dict[str, Any]:
    """Return the document, ready for JSON."""
    # Late: most trainers are never asked, and none should load the frame-reading code for nothing.
    from torchctl.server.handlers.calling.document import calls_document

    return calls_document()
