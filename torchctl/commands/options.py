"""The click options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from torchctl import protocol
from torchctl.commands.grouping import HOSTS, LIMITS, OUTPUT, SECURITY, WORKERS, shared_option
from torchctl.commands.types import Host, Nodes, Number, Pids, Ranks, Seconds, SocketPath, Store
from torchctl.errors import TorchctlError
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from torchctl.workers.ask.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])
# The fields of `Targets` that the operator types; the command sets the other two.
TYPED = [field.name for field in fields(Targets) if field.name not in ("as_json", "progress")]


def _flat(ctx: click.Context, param: click.Parameter, values: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    """Flatten an option that can be repeated and takes a list each time."""
    return tuple(dict.fromkeys(one for value in values for one in value))


def _for_nodes(ctx: click.Context, param: click.Parameter, nodes: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the hosts; if there are none, reject options that apply only to hosts and would be ignored."""
    hosts: tuple[str, ...] = _flat(ctx, param, nodes)
    given = [f"--{name}" for name in ("via", "remote") if _is_typed(ctx, name)]
    if given and not hosts and not ctx.resilient_parsing:
        verb = "applies" if len(given) == 1 else "apply"
        raise click.UsageError(f"{' and '.join(given)} only {verb} to hosts that --nodes names, and it names none", ctx)
    return hosts


def _is_typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _checked_via(ctx: click.Context, param: click.Parameter, command: str) -> str:
    if command != "ssh" and "{host}" not in command:
        raise click.BadParameter("put {host} where the host name goes: 'srun --overlap -w {host}'")
    return command


# Each option produces the value of the `Targets` field that it is named after.
_TARGETS = [
    shared_option(
        WORKERS,
        "--socket",
        "sockets",
        type=SocketPath(),
        multiple=True,
        help="A worker's Unix socket, or a folder of sockets. Repeatable.",
    ),
    shared_option(
        WORKERS,
        "--host",
        "hosts",
        type=Host(),
        multiple=True,
        callback=_flat,
        help="A worker's TCP address, or a pattern such as node[01-04]:25[000-007]. Repeatable.",
    ),
    shared_option(
        WORKERS,
        "--hostfile",
        "hostfiles",
        type=click.Path(),
        multiple=True,
        metavar="FILE",
        help="A file of worker addresses, one per line. Repeatable.",
    ),
    shared_option(WORKERS, "--store", type=Store(), help="The job's TCPStore, where its workers are registered."),
    shared_option(
        WORKERS,
        "--prefix",
        metavar="NS",
        default=protocol.STORE_PREFIX,
        help="The prefix of their keys.",
    ),
    shared_option(
        WORKERS,
        "--pid",
        "pids",
        type=Pids(),
        multiple=True,
        callback=_flat,
        help="Processes without a server, read by py-spy.",
    ),
    shared_option(WORKERS, "--user", metavar="NAME", help="The workers of this user, or of `all`. For root."),
    shared_option(WORKERS, "--ranks", type=Ranks(), help="Only these ranks, such as 0,3-7."),
    shared_option(WORKERS, "--job", metavar="ID", help="Only the workers of this job."),
    shared_option(
        HOSTS,
        "--nodes",
        type=Nodes(),
        multiple=True,
        callback=_for_nodes,
        help="Ask workers on hosts such as node[001-128]. Repeatable.",
    ),
    shared_option(
        HOSTS,
        "--via",
        callback=_checked_via,
        metavar="COMMAND",
        default="ssh",
        help="ssh, or a command with {host} in it.",
    ),
    shared_option(
        HOSTS,
        "--remote",
        metavar="PATH",
        default="torchctl",
        help="The path of torchctl there.",
    ),
    shared_option(
        SECURITY,
        "--token-file",
        type=click.Path(),
        default="",
        metavar="FILE",
        envvar=protocol.TOKEN_FILE_VARIABLE,
        help="A file with the token for workers on TCP, readable only by you. Or set TORCHCTL_TOKEN.",
    ),
    shared_option(
        SECURITY,
        "--ca",
        type=click.Path(),
        default="",
        metavar="FILE",
        envvar=protocol.CA_VARIABLE,
        help="Use TLS for workers on TCP, verified against the CAs in this PEM file.",
    ),
    shared_option(
        SECURITY,
        "--trust-store",
        is_flag=True,
        help="Send the token to the store's addresses too, over TLS or loopback.",
    ),
    shared_option(
        LIMITS,
        "--timeout",
        "timeout_s",
        type=Seconds(),
        default=protocol.DEFAULT_TIMEOUT_S,
        help="Time limit for the whole command.",
    ),
    shared_option(
        LIMITS,
        "--jobs",
        type=Number(1),
        metavar="N",
        help="Ask at most N workers at once; by default, all.",
    ),
]


def worker_options(function: F, unlisted: Collection[str] = ()) -> F:
    """Add the options that select workers; the command receives them as one `Targets`.

    Args:
        unlisted: fields of `Targets` whose options are of little use to the command, so that --help omits them.
    """

    @wraps(function)
    def command(**values: Any) -> Any:
        as_json = values.pop("json") or values["output_format"] == "json"
        del values["output_format"]
        typed = {name: values.pop(name) for name in TYPED}
        targets = Targets(**typed, as_json=as_json, progress=_progress())
        try:
            return function(targets, **values)
        except TorchctlError as error:
            if targets.as_json:
                _print_error(error)
            raise

    for option in reversed([*_TARGETS, *format_options()]):
        command = option(command)
    for param in command.__click_params__:  # type: ignore[attr-defined]
        if param.name in unlisted:
            param.hidden = True
    return command  # type: ignore[return-value]


def _print_error(error: TorchctlError) -> None:
    """Print the JSON object for a run that found no workers: with JSON output, stdout is never empty."""
    from torchctl.render.json import document

    told = {"kind": error.kind, "message": str(error), "hint": error.hint}
    name = click.get_current_context().info_name or ""
    click.echo(document(name, {"error": told, "failures": [], "workers": [], **error.details}))


def _progress() -> Progress | None:
    if not sys.stderr.isatty():
        return None
    from torchctl.render.progress import ProgressLine

    return ProgressLine()


def format_options() -> list[Callable[[F], F]]:
    """Return --format and its short form --json, as `output_format` and `json`."""
    return [
        shared_option(
            OUTPUT,
            "--format",
            "output_format",
            type=click.Choice(["table", "json"]),
            default="table",
            help="The format of stdout.",
        ),
        shared_option(OUTPUT, "--json", is_flag=True, help="Short for --format json."),
    ]
