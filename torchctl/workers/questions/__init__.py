"""The questions that a worker can be asked, by the names that travel between hosts.

How this works: `--nodes` has a relay on each host ask the same question, which it knows by name. A name never changes
its meaning: the torchctl there may be older or newer than the one here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torchctl.workers.ask.question import Question

Relayed = TypeVar("Relayed", bound="Question[Any] | Callable[[Mapping[str, Any]], Question[Any]]")

_MODULES = ("basic", "info", "dumps", "look", "everything")  # each registers its own
_REGISTRY: dict[str, Question[Any] | Callable[[Mapping[str, Any]], Question[Any]]] = {}


def relayed(name: str) -> Callable[[Relayed], Relayed]:
    """Let relays ask this by a name: a question, or a function that makes one of the arguments that another host sent.

    Raises:
        ValueError: the name is taken.
    """

    def register(asked: Relayed) -> Relayed:
        if name in _REGISTRY:
            raise ValueError(f"there are two questions {name!r}")
        _REGISTRY[name] = asked
        if isinstance(asked, Question):
            asked.name = name
        return asked

    return register


def named_question(name: str, arguments: Mapping[str, Any]) -> Question[Any]:
    """Return the question that another torchctl named: what `torchctl relay` asks for it.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: there is none of that name, or its arguments have another form.
    """
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    asked = _REGISTRY.get(name)
    if asked is None:
        raise ValueError(f"there is no question {name!r}")
    return asked if isinstance(asked, Question) else asked(arguments)
