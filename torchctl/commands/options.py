"""The click options that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from torchctl import protocol
from torchctl.errors import TorchctlError
from torchctl.ranks import parse_ranks
from torchctl.workers.endpoint import Endpoint, parse_host_port
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from torchctl.workers.ask.fanout import Progress

F = TypeVar("F", bound=Callable[..., Any])


class Host(click.ParamType[tuple[Endpoint, ...]]):
    """HOST:PORT, or a list of them in ClusterShell's grammar."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Endpoint, ...]:
        if isinstance(value, tuple):
            return value
        if "," not in value and ("[" not in value or value.startswith("[")):
            return (_checked(self, parse_host_port, value, param, ctx),)
        from torchctl.workers.find.hostlist import parse_endpoints

        return tuple(_checked(self, parse_endpoints, value, param, ctx))


class Store(click.ParamType[Endpoint]):
    """A store's HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        return value if isinstance(value, Endpoint) else _checked(self, parse_host_port, value, param, ctx)


class Nodes(click.ParamType[tuple[str, ...]]):
    """A list of hosts in ClusterShell's grammar."""

    name = "HOSTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        from torchctl.workers.find.hostlist import parse_hosts

        return tuple(_checked(self, parse_hosts, value, param, ctx))


class Pids(click.ParamType[tuple[int, ...]]):
    """PID[,PID...]."""

    name = "PID[,PID...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(len(word) < 9 and word.isascii() and word.isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is no list of process ids", param, ctx)
        return tuple(map(int, words))


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
        from torchctl.commands.completing import socket_paths

        return socket_paths(incomplete)


def worker_options(function: F) -> F:
    """Add the options that say which workers to ask; the command gets them as one `Targets`."""

    @wraps(function)
    def command(**values: Any) -> Any:
        targets = _targets(values)
        try:
            return function(targets, **values)
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
        click.option(
            "--host", type=Host(), multiple=True, help="A worker's TCP address, or node[01-04]:25[000-007]. Repeatable."
        ),
        click.option(
            "--hostfile", type=click.Path(), multiple=True, metavar="FILE", help="A file with an address a line."
        ),
        click.option(
            "--nodes", type=Nodes(), multiple=True, help="Other hosts, node[001-128]: the workers' sockets there."
        ),
        click.option(
            "--via", metavar="COMMAND", default="ssh", show_default=True, help="How; else a command with {host}."
        ),
        click.option("--remote", metavar="PATH", default="torchctl", show_default=True, help="The torchctl there."),
        click.option("--store", type=Store(), help="The job's TCPStore, in which its workers are registered."),
        click.option(
            "--prefix", metavar="NS", default=protocol.STORE_PREFIX, show_default=True, help="Of the store's keys."
        ),
        click.option(
            "--trust-store", is_flag=True, help="Let the store's addresses have the token: TLS, loopback only."
        ),
        click.option(
            "--token-file",
            type=click.Path(),
            metavar="FILE",
            envvar=protocol.TOKEN_FILE_VARIABLE,
            help="The token for workers on TCP; closed to others. Else TORCHCTL_TOKEN.",
        ),
        click.option(
            "--ca",
            type=click.Path(),
            metavar="FILE",
            envvar=protocol.CA_VARIABLE,
            help="TLS to workers on TCP, verified by these authorities (PEM).",
        ),
        click.option("--pid", type=Pids(), multiple=True, help="Processes without a server, looked at by py-spy."),
        click.option("--user", metavar="NAME", help="The workers of this user, or of all; for root."),
        click.option("--ranks", type=Ranks(), help="Only these ranks, such as 0,3-7."),
        click.option("--job", metavar="ID", help="Only the workers of this job."),
        click.option(
            "--jobs", type=click.IntRange(1), metavar="N", help="Ask at most N workers at a time; default all."
        ),
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
    click.echo(document(name, {"error": told, "failures": [], "workers": [], **error.details}))


def _targets(values: dict[str, Any]) -> Targets:
    """Take the worker options out of a command's values and return them as one object."""
    as_json = values.pop("json") or values["output_format"] == "json"
    del values["output_format"]
    return Targets(
        values.pop("socket"),
        tuple(endpoint for endpoints in values.pop("host") for endpoint in endpoints),
        values.pop("ranks"),
        values.pop("timeout"),
        as_json,
        hostfiles=values.pop("hostfile"),
        nodes=tuple(dict.fromkeys(node for nodes in values.pop("nodes") for node in nodes)),
        via=_checked_via(values.pop("via")),
        remote=values.pop("remote"),
        pids=tuple(pid for pids in values.pop("pid") for pid in pids),
        user=values.pop("user"),
        store=values.pop("store"),
        prefix=values.pop("prefix"),
        trust_store=values.pop("trust_store"),
        token_file=values.pop("token_file") or "",
        ca=values.pop("ca") or "",
        job=values.pop("job"),
        jobs=values.pop("jobs"),
        progress=_progress(),
    )


def _checked_via(command: str) -> str:
    if command != "ssh" and "{host}" not in command:
        raise click.BadParameter("name the host's place by {host}: 'srun --overlap -w {host}'", param_hint="--via")
    return command


def _progress() -> Progress | None:
    if not sys.stderr.isatty():
        return None
    from torchctl.render.progress import ProgressLine

    return ProgressLine()


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
