"""The questions that a worker can be asked, by the names that travel between hosts.

How this works: with `--nodes`, a relay on each host asks the same question, which it looks up by name. A name never
changes its meaning, because torchctl on the other host may be older or newer than ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torchctl.workers.ask.question import Question

Relayed = TypeVar("Relayed", bound="Question[Any] | Callable[[Mapping[str, Any]], Question[Any]]")

_MODULES = ("basic", "info", "dumps", "look", "everything")  # each registers its questions
_REGISTRY: dict[str, Question[Any] | Callable[[Mapping[str, Any]], Question[Any]]] = {}


def relayed(name: str) -> Callable[[Relayed], Relayed]:
    """Register a question under a name for relays, or a function that makes one from arguments sent by another host.

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
    """Return the question that another torchctl named, for `torchctl relay` to ask.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the name is unknown, or the arguments are malformed.
    """
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    asked = _REGISTRY.get(name)
    if asked is None:
        raise ValueError(f"there is no question {name!r}")
    return asked if isinstance(asked, Question) else asked(arguments)
