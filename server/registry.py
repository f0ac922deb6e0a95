"""The handlers by name: ours and the user's first, then torch's."""

from __future__ import annotations

import re
from collections.abc import Callable

from torchctl.server.guest import torchlink
from torchctl.server.request import Handler

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

_handlers: dict[str, Handler] = {}
_harmless: set[str] = set()


def register_handler(name: str, function: Handler, *, costly: bool = True) -> None:
    """Serve `function` at ``POST /handler/NAME``.

    Args:
        name: letters, digits and ``_.:-``, at most 128.
        function: called as ``function(request, response)`` on a thread of the server, never on the
            main thread. If it raises, the response is a 500 with the message.
        costly: it changes something in the process or slows the training; a read-only server turns it off.

    Raises:
        ValueError: the name is taken, or cannot be part of a path.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a handler name: use letters, digits and _.:-, at most 128 characters")
    if name in _handlers:
        raise ValueError(f"Handler {name} is already registered; registered: {', '.join(sorted(_handlers))}")
    _handlers[name] = function
    if not costly:
        _harmless.add(name)


def handler(name: str, *, costly: bool = True) -> Callable[[Handler], Handler]:
    """Return a decorator that registers the function below it; see `register_handler`."""

    def register(function: Handler) -> Handler:
        register_handler(name, function, costly=costly)
        return function

    return register


def get_handler(name: str) -> Handler:
    """Return the handler with that name: ours or the user's, else torch's if torch is loaded.

    Raises:
        ValueError: ``Failed to find handler NAME``, which is torch's wording.
    """
    found = _handlers.get(name) or torchlink.torch_handler(name)
    if found is None:
        raise ValueError(f"Failed to find handler {name}")
    return found


def is_costly(name: str) -> bool:
    """Return whether a handler counts as costly: all do, including torch's, unless registered as harmless."""
    return name not in _harmless


def costly_names() -> list[str]:
    """Return the names of the costly handlers, ours and the user's."""
    return sorted(_handlers.keys() - _harmless)


def get_handler_names() -> list[str]:
    """Return the names of all handlers, sorted: ours, the user's, and torch's if torch is loaded."""
    return sorted({*_handlers, *torchlink.torch_handler_names()})
