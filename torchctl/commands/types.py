"""Click types for addresses, hosts, ranks, pids, seconds and paths.

The store commands share them, so the worker side is imported only when a value needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from torchctl.ranks import parse_ranks
from torchctl.text import parse_host_port

if TYPE_CHECKING:
    from click import ParamType
    from click.shell_completion import CompletionItem

    from torchctl.workers.endpoint import Endpoint
else:

    class ParamType(click.ParamType):
        """Click's own type, generic only since click 8.4; a job's environment may have 8.1."""

        def __class_getitem__(cls, value: object) -> type[click.ParamType]:
            return cls


class Host(ParamType[tuple["Endpoint", ...]]):
    """HOST:PORT, or a list of them in ClusterShell's grammar."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Endpoint, ...]:
        if isinstance(value, tuple):
            return value
        if "," not in value and ("[" not in value or value.startswith("[")):
            from torchctl.workers.endpoint import parse_endpoint

            return (_checked(self, parse_endpoint, value, param, ctx),)
        from torchctl.workers.find.hostlist import parse_endpoints

        return tuple(_checked(self, parse_endpoints, value, param, ctx))


class Store(ParamType[tuple[str, int]]):
    """A store's HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        return value if isinstance(value, tuple) else _checked(self, parse_host_port, value, param, ctx)


class Nodes(ParamType[tuple[str, ...]]):
    """A list of hosts in ClusterShell's grammar."""

    name = "HOSTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        from torchctl.workers.find.hostlist import parse_hosts

        return tuple(_checked(self, parse_hosts, value, param, ctx))


class Pids(ParamType[tuple[int, ...]]):
    """PID[,PID...]."""

    name = "PID[,PID...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(len(word) < 9 and word.isascii() and word.isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not a list of process ids", param, ctx)
        return tuple(map(int, words))


class Ranks(ParamType[list[int]]):
    """A list of ranks, such as 0,3-7."""

    name = "RANKS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        return value if isinstance(value, list) else _checked(self, parse_ranks, value, param, ctx)


class Number(ParamType[int]):
    """An integer between two limits, which the error names.

    Args:
        least, most: the inclusive limits; None for no limit.
        what: the name of the value in the error.
    """

    name = "N"

    def __init__(self, least: int | None = None, most: int | None = None, *, what: str = "a whole number") -> None:
        self._least = least
        self._most = most
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not {self._what}", param, ctx)
        if self._least is not None and number < self._least:
            self.fail(f"{number} is less than {self._least}", param, ctx)
        if self._most is not None and number > self._most:
            self.fail(f"{number} is more than {self._most}", param, ctx)
        return number


class Seconds(ParamType[float]):
    """A time span of more than zero seconds and at most a day."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not (math.isfinite(seconds) and 0 < seconds <= 86400):
            self.fail(f"{value!r} must be more than 0 and at most 86400 seconds", param, ctx)
        return seconds


class SocketPath(ParamType[str]):
    """A socket's path, or a folder of sockets."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or "\0" in value:
            self.fail("a path cannot be empty", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from torchctl.commands.completing import socket_paths

        return socket_paths(incomplete)


def _checked(
    kind: ParamType[Any],
    parse: Callable[[str], Any],
    value: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        fail: Callable[..., NoReturn] = kind.fail
        fail(str(error), param, ctx)
