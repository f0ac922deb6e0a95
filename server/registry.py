"""The handlers by name: ours and the user's, then torch's own."""

from __future__ import annotations

import re
from collections.abc import Callable

from torchctl.server import torchlink
from torchctl.server.request import Handler

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

_handlers: dict[str, Handler] = {}


def register_handler(name: str, function: Handler) -> None:
    """Serve `function` at ``POST /handler/NAME``.

    Args:
        name: letters, digits and ``_.:-``, at most 128.
        function: called as ``function(request, response)``, on a thread of the server, never on the
            main thread. What it raises becomes a 500 with the message.

    Raises:
        ValueError: the name is taken, or cannot stand in a path.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no handler name: letters, digits and _.:- only, at most 128")
    if name in _handlers:
        raise ValueError(f"Handler {name} is registered already; registered: {', '.join(sorted(_handlers))}")
    _handlers[name] = function


def handler(name: str) -> Callable[[Handler], Handler]:
    """Return a decorator that registers the function it stands over; see `register_handler`."""

    def register(function: Handler) -> Handler:
        register_handler(name, function)
        return function

    return register


def get_handler(name: str) -> Handler:
    """Return the handler of that name: ours, the user's, else torch's when torch is loaded.

    Raises:
        ValueError: ``Failed to find handler NAME``, torch's own words.
    """
    found = _handlers.get(name) or torchlink.torch_handler(name)
    if found is None:
        raise ValueError(f"Failed to find handler {name}")
    return found


def get_handler_names() -> list[str]:
    """Return the names of all handlers, sorted: ours, the user's, and torch's when torch is loaded."""
    return sorted({*_handlers, *torchlink.torch_handler_names()})
