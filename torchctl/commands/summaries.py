"""The one-line summary of each command, read without importing the commands.

How this works: a command's help is the docstring of the function `command` in its module. A compiled module has it
among its constants, so the code is loaded (from Python's cache, as for any import) but not run.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from types import CodeType

import click

_FUNCTION = "command"


class Listed(click.Command):
    """A command with only a name and help, enough to list it."""

    def __init__(self, name: str, module: str) -> None:
        super().__init__(name, help=docstring(module))


def docstring(module: str) -> str | None:
    """Return the docstring of a module's function `command` without running the module, or None if it has none.

    Source: Python's Lib/inspect.py and the compiler: a function's docstring is the first of its code's constants.
    """
    spec = find_spec(module)
    loader = None if spec is None else spec.loader
    code = loader.get_code(module) if loader is not None and hasattr(loader, "get_code") else None
    for function in _functions(code):
        first = function.co_consts[0] if function.co_consts else None
        return first if isinstance(first, str) else None
    return None


def _functions(code: CodeType | None) -> Iterable[CodeType]:
    constants = () if code is None else code.co_consts
    return (one for one in constants if isinstance(one, CodeType) and one.co_name == _FUNCTION)
