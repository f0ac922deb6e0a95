"""The click options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from torchctl import protocol
from torchctl.endpoint import Endpoint, parse_host_port
from torchctl.errors import TorchctlError
from torchctl.ranks import parse_ranks
from torchctl.targets import Targets

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


class Host(click.ParamType[Endpoint]):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        return value if isinstance(value, Endpoint) else _checked(self, parse_host_port, value, param, ctx)


class Ranks(click.ParamType[list[int]]):
    """A list of ranks, 0,3-7."""

    name = "RANKS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        return value if isinstance(value, list) else _checked(self, parse_ranks, value, param, ctx)


class Seconds(click.ParamType[float]):
    """A time span of more than zero seconds, at most a day."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        if not (math.isfinite(seconds) and 0 < seconds <= 86400):
            self.fail(f"{value!r} is not between 0 and 86400 seconds", param, ctx)
        return seconds


class SocketPath(click.ParamType[str]):
    """A socket's path, or a folder of sockets."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or "\0" in value:
            self.fail("a path cannot be empty", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from torchctl.completing import socket_paths

        return socket_paths(incomplete)


def worker_options(function: F) -> F:
    """Add the options that say which workers to ask; the command gets them as one `Targets`."""

    @wraps(function)
    def command(
        socket: tuple[str, ...],
        host: tuple[Endpoint, ...],
        ranks: list[int] | None,
        timeout: float,
        output_format: str,
        json: bool,
        **rest: Any,
    ) -> Any:
        targets = Targets(socket, host, ranks, timeout, json or output_format == "json")
        try:
            return function(targets, **rest)
        except TorchctlError as error:
            if targets.as_json:
                _print_error(error)
            raise

    options = [
        click.option(
            "--socket",
            type=SocketPath(),
            multiple=True,
            help="A worker's Unix socket, or a folder of them. Repeatable.",
        ),
        click.option("--host", type=Host(), multiple=True, help="A worker's TCP address. Repeatable."),
        click.option("--ranks", type=Ranks(), help="Only these ranks, such as 0,3-7."),
        click.option(
            "--timeout",
            type=Seconds(),
            default=protocol.DEFAULT_TIMEOUT_S,
            show_default=True,
            help="Limit of the whole command.",
        ),
        *format_options(),
    ]
    for option in reversed(options):
        command = option(command)
    return command  # type: ignore[return-value]


def _print_error(error: TorchctlError) -> None:
    """Print the JSON object of a run that found nobody to ask: stdout is never empty where JSON was asked for."""
    from torchctl.render.json import document

    told = {"kind": error.kind, "message": str(error), "hint": error.hint}
    name = click.get_current_context().info_name or ""
    click.echo(document(name, {"error": told, "failures": [], "workers": []}))


def format_options() -> list[Callable[[F], F]]:
    """Return --format and its short form --json, as `output_format` and `json`."""
    return [
        click.option(
            "--format",
            "output_format",
            type=click.Choice(["table", "json"]),
            default="table",
            show_default=True,
            help="What stdout gets.",
        ),
        click.option("--json", is_flag=True, help="Short for --format json."),
    ]


def _checked(
    kind: click.ParamType[Any],
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
