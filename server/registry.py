"""The handlers by name: ours and the user's, then torch's own."""

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
        function: called as ``function(request, response)``, on a thread of the server, never on the
            main thread. What it raises becomes a 500 with the message.
        costly: it changes something in the process or costs the training time; a read-only server switches it off.

    Raises:
        ValueError: the name is taken, or cannot stand in a path.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a handler name: use letters, digits and _.:-, at most 128 characters")
    if name in _handlers:
        raise ValueError(f"Handler {name} is already registered; registered: {', '.join(sorted(_handlers))}")
    _handlers[name] = function
    if not costly:
        _harmless.add(name)


def handler(name: str, *, costly: bool = True) -> Callable[[Handler], Handler]:
    """Return a decorator that registers the function it stands over; see `register_handler`."""

    def register(function: Handler) -> Handler:
        register_handler(name, function, costly=costly)
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


def is_costly(name: str) -> bool:
    """Whether a handler changes or costs something: all but those registered as harmless, torch's own among them."""
    return name not in _harmless


def costly_names() -> list[str]:
    """Return the names of our own and the user's costly handlers."""
    return sorted(_handlers.keys() - _harmless)


def get_handler_names() -> list[str]:
    """Return the names of all handlers, sorted: ours, the user's, and torch's when torch is loaded."""
    return sorted({*_handlers, *torchlink.torch_handler_names()})
