"""`torchctl doctor`."""

from __future__ import annotations

import textwrap
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from torchctl import protocol
from torchctl.commands.grouping import LIMITS, GroupedCommand, shared_option
from torchctl.commands.options import format_options
from torchctl.commands.types import Number, Seconds, SocketPath
from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, NoWorkersError
from torchctl.text import printable

if TYPE_CHECKING:
    from torchctl.reports.doctor import Report


@click.command(cls=GroupedCommand)
@click.argument("pid", type=Number(1, (1 << 22) - 1, what="a process id"), metavar="[PID]", required=False)
@click.option("--socket", "path", type=SocketPath(), help="The process that listens on this socket.")
@shared_option(
    LIMITS,
    "--timeout",
    type=Seconds(),
    default=protocol.DEFAULT_TIMEOUT_S,
    help="Time limit for its server's answer and for py-spy.",
)
def command(pid: int | None, path: str | None, timeout: float, output_format: str, json: bool) -> None:
    """Examine one process on this host and what blocks it.

    Also works for a process that never had a server. The process is neither stopped nor signaled.
    """
    from torchctl.reports.doctor import examine

    if (pid is None) == (path is None):
        raise click.UsageError("give either a PID or --socket")
    if pid is None:
        assert path is not None
        pid = _listener(path)
    report = examine(pid, path or "", time.monotonic() + timeout)
    if json or output_format == "json":
        from torchctl.render.json import document

        click.echo(document("doctor", _json(report)))
    else:
        _print(report)
    raise SystemExit(EXIT_OK if report.well else EXIT_UNREACHABLE)


for _option in format_options():
    command = _option(command)


def _listener(path: str) -> int:
    """Return the pid that listens at a socket, or that did according to its name or a last word.

    Raises:
        NoWorkersError: nothing listens, and no record says which process did.
    """
    from torchctl.workers import causes
    from torchctl.workers.endpoint import Endpoint

    pid = causes.listener_of(path)
    if pid is None:
        pid = next((word.pid for word in causes.last_words() if word.endpoint == path), None)
    if pid is None:
        pid = causes.pid_of(Endpoint(path=path))
    if pid is None:
        raise NoWorkersError(
            f"nothing listens on {path}, and no record says which process did", hint="`torchctl ps` lists workers"
        )
    return pid


def _print(report: Report) -> None:
    from torchctl.render.console import console
    from torchctl.render.traceback import traceback_lines

    out = console()
    wrap = partial(textwrap.wrap, width=max(out.width, 40), break_long_words=False, break_on_hyphens=False)
    lines = wrap(printable(report.verdict))
    width = max((len(name) for name, _ in report.facts), default=0)
    for name, text in report.facts:
        first = f"  {name:<{width}}  "
        lines += wrap(printable(text), initial_indent=first, subsequent_indent=" " * len(first))
    click.echo("\n".join(lines))
    if report.stacks is None:
        return
    for line in traceback_lines(report.stacks, all_threads=False, colour=out.is_terminal and not out.no_color):
        out.print(line, soft_wrap=True)


def _json(report: Report) -> dict[str, Any]:
    from torchctl.render.traceback import stacks_json

    return {
        "pid": report.pid,
        "verdict": report.verdict,
        "well": report.well,
        "facts": dict(report.facts),
        "reasons": [one._asdict() for one in report.reasons],
        "stacks": None if report.stacks is None else stacks_json(report.stacks),
    }
