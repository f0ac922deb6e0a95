"""The click options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from torchctl import protocol
from torchctl.commands.types import Host, Nodes, Pids, Ranks, Seconds, SocketPath, Store
from torchctl.errors import TorchctlError
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from torchctl.workers.ask.transport import Progress

F = TypeVar("F", bound=Callable[..., Any])


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
        raise click.BadParameter("put {host} where the host name goes: 'srun --overlap -w {host}'", param_hint="--via")
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
