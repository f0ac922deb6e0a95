"""`torchctl nccl-trace`: show the contents of flight recorders, from files or live workers."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.commands.types import Number
from torchctl.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE, TorchctlError
from torchctl.files import write_file
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.gather import collector_off, decode_each, order
from torchctl.flightrec.view.choice import DEFAULT_LAST, Choice
from torchctl.reports.traces import FileTraces, Traces, WorkerTraces
from torchctl.text import printable
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump
    from torchctl.flightrec.view.view import TraceView


@click.command("nccl-trace", cls=GroupedCommand)
@click.option("--only-active", is_flag=True, help="Only operations that have not completed.")
@click.option("--no-stacktraces", is_flag=True, help="Omit the stack frames.")
@click.option("--no-collectives", is_flag=True, help="Only the summary of process groups.")
@click.option("--group", metavar="NAME", help="Only the process group with this name or description.")
@click.option(
    "--last",
    type=Number(0),
    metavar="N",
    default=DEFAULT_LAST,
    show_default=True,
    help="Show the last N entries and the oldest 50 active ones; 0 shows all.",
)
@click.option("--output", type=click.Path(), metavar="FILE", help="Also save the raw dump.")
@partial(worker_options, unlisted={"pids"})
@click.option("--file", "more", multiple=True, type=click.Path(), metavar="DUMP", help="A dump file. Repeatable.")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE|DIR]...")
def command(
    targets: Targets,
    only_active: bool,
    no_stacktraces: bool,
    no_collectives: bool,
    group: str | None,
    last: int,
    output: str | None,
    more: tuple[str, ...],
    files: tuple[str, ...],
) -> int:
    """Show each rank's flight recorder: NCCL's, gloo's or another.

    Without arguments, nccl-trace asks the live workers. Given FILEs or a DIR, it reads the dumps there: pickle or
    JSON, format 2.x. Nothing in a dump is ever executed. By default it shows the active operations and the last 20.
    """
    choice = Choice(last, group, only_active, not no_collectives, not no_stacktraces)
    paths = [*files, *more]
    if paths and (targets.names_any() or targets.ranks is not None):
        raise click.UsageError("--socket, --host and --ranks only apply to live workers, not to a FILE")

    frames = choice.stacktraces and choice.collectives
    traces = FileTraces(paths) if paths else WorkerTraces(targets, frames=frames)

    def take() -> Iterator[RawDump | Failure]:
        raw: Iterable[RawDump | Failure] = traces
        if output is not None:
            raw = list(raw)
            _save(raw, output)  # before decoding, because an unreadable dump is worth keeping too
        yield from raw

    with collector_off(), _importing_ahead(targets.as_json):  # while the first child starts
        views, unread = _views(take(), choice)
    if group is not None:
        _refuse_unknown_group(views, group)
    _show(views, traces, unread, targets.as_json)
    return _report(views, traces, unread)


def _save(raw_dumps: list[RawDump | Failure], path: str) -> None:
    """Write the dumps' raw bytes: one to `path`, several to ``PATH.rankN``."""
    dumps = [raw for raw in raw_dumps if isinstance(raw, RawDump)]
    taken: set[str] = set()
    for number, raw in enumerate(dumps):
        name = path
        if len(dumps) > 1:
            name += f".dump{number}" if raw.rank is None else f".rank{raw.rank}"
            name += f".{number}" if name in taken else ""
        taken.add(name)
        write_file(name, raw.data)
        click.echo(f"torchctl: saved {len(raw.data)} bytes from {printable(raw.source)} to {name}", err=True)


@contextmanager
def _importing_ahead(as_json: bool) -> Iterator[None]:
    """Import the rendering code in another thread in the meantime."""
    names = ["torchctl.flightrec.view.view"]
    names.append("torchctl.render.nccl_trace_json" if as_json else "torchctl.render.nccl_trace")
    if not as_json and sys.stdout.isatty():
        names += ["rich.console", "rich.table"]
    thread = threading.Thread(target=lambda: [importlib.import_module(name) for name in names])
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _views(raw_dumps: Iterable[RawDump | Failure], choice: Choice) -> tuple[list[TraceView], list[Failure]]:
    """Return what to show of each dump, by rank; each dump is released once it has been processed."""

    def view(raw: RawDump, dump: Dump) -> tuple[RawDump, TraceView]:
        from torchctl.flightrec.view.view import view_of

        return raw, view_of(dump, raw.rank, choice, answered_ns=raw.answered_ns, written_ns=raw.written_ns)

    made, failures = decode_each(raw_dumps, view)
    return [shown for _, shown in sorted(made, key=lambda pair: order(pair[0]))], failures


def _refuse_unknown_group(views: list[TraceView], group: str) -> None:
    if not views or any(view.groups or view.asked for view in views):
        return
    names = ", ".join(sorted({name for view in views for name in view.group_names}))
    raise TorchctlError(f"no dump has a process group named {group}", hint=f"the groups are: {names or 'none'}")


def _show(views: list[TraceView], traces: Traces, unread: list[Failure], as_json: bool) -> None:
    if as_json:
        from torchctl.render.nccl_trace_json import json_parts

        for part in json_parts(views, sorted([*traces.failures, *unread], key=order)):
            click.echo(part, nl=False)
        click.echo()
        return
    from torchctl.render.nccl_trace import plain_lines, print_rich, suits_rich

    if sys.stdout.isatty() and suits_rich(views):
        print_rich(views)
    elif views:
        click.echo("\n".join(plain_lines(views)))


def _report(views: list[TraceView], traces: Traces, unread: list[Failure]) -> int:
    """Print on stderr what is missing or unreadable, and return the exit code: the failures' if all failed alike."""
    if traces.missing is not None:
        from torchctl.render.failures import failure_lines

        for line in failure_lines(traces.missing):
            click.echo(line, err=True)
    for failure in unread:
        click.echo(f"torchctl: {printable(str(failure.error))}", err=True)
    for hint in dict.fromkeys(failure.error.hint for failure in unread if failure.error.hint):
        click.echo(f"  {printable(hint)}", err=True)
    codes = {failure.error.exit_code for failure in unread} | ({traces.exit_code} - {EXIT_OK})
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    if not codes:
        return EXIT_OK
    return EXIT_UNREACHABLE if views or len(codes) > 1 else codes.pop()
