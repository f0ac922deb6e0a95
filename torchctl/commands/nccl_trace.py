"""torchctl nccl-trace: what a flight recorder holds, from files or live workers."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from torchctl.errors import EXIT_OK, EXIT_UNREACHABLE, TorchctlError
from torchctl.flightrec.choice import DEFAULT_LAST, Choice
from torchctl.flightrec.gather import Failure, RawDump, collector_off, decode_all, read_files
from torchctl.flightrec.guard import Guard

if TYPE_CHECKING:
    from torchctl.flightrec.dump import Dump
    from torchctl.flightrec.view import TraceView


@click.command("nccl-trace")
@click.option("--only-active", is_flag=True, help="Only operations that have not come to their end.")
@click.option("--no-stacktraces", is_flag=True, help="Leave the frames out.")
@click.option("--no-collectives", is_flag=True, help="Only the summary of process groups.")
@click.option("--group", metavar="NAME", help="Only the process group with this name or description.")
@click.option(
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    default=DEFAULT_LAST,
    show_default=True,
    help="Show the last N entries, and the oldest 50 active ones; 0 shows all.",
)
@click.option("--output", type=click.Path(), metavar="FILE", help="Also save the dump's raw bytes.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--json", "form", flag_value="json", help="Short for --format json.")
@click.option("--file", "options", multiple=True, type=click.Path(), metavar="DUMP", help="A dump's file.")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
def command(
    only_active: bool,
    no_stacktraces: bool,
    no_collectives: bool,
    group: str | None,
    last: int,
    output: str | None,
    form: str,
    options: tuple[str, ...],
    files: tuple[str, ...],
) -> int:
    """Show what the flight recorder (NCCL's, gloo's or another) holds, rank by rank.

    Reads dump FILEs, pickle or JSON of any format version 2; without FILE it asks the live workers. Nothing
    in a dump is ever executed. By default the active operations and the last 20 are shown.
    """
    choice = Choice(last, group, only_active, not no_collectives, not no_stacktraces)
    paths = [*files, *options]
    if output is not None and len(paths) > 1:
        raise click.UsageError("--output saves one dump; name one FILE")
    with collector_off(), Guard() as guard:
        guard.start()
        with _importing_ahead(form):  # while the child boots and decodes
            raw = read_files(paths) if paths else fetch_dumps(choice)
            decoded, failures = decode_all(raw if output is None else _saved(raw, output), guard)
        views = _views(decoded, choice)
    if group is not None:
        _refuse_unknown_group(views, group)
    _show(views, failures, form)
    return _report(views, failures)


def fetch_dumps(choice: Choice) -> Iterator[RawDump | Failure]:
    """Yield the dumps of live workers, or why there is none of one."""
    raise click.UsageError("name the FILE of a dump")


def save(data: bytes, path: str) -> None:
    """Write a file as a whole or not at all, readable by its owner alone.

    Raises:
        TorchctlError: it cannot be written, or something that is no regular file lies there.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise TorchctlError(f"{path} exists and is no regular file", hint="name another --output")
    part = f"{path}.{os.getpid()}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise TorchctlError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"saved {len(data)} bytes to {path}", err=True)


def _saved(raw_dumps: Iterable[RawDump | Failure], path: str) -> Iterator[RawDump | Failure]:
    """Save a dump before it is decoded: what cannot be read is worth keeping."""
    for raw in raw_dumps:
        if isinstance(raw, RawDump):
            save(raw.data, path)
        yield raw


@contextmanager
def _importing_ahead(form: str) -> Iterator[None]:
    """Import what shows the result in a thread of its own meanwhile."""
    names = ["torchctl.flightrec.view"]
    names.append("torchctl.render.nccl_trace_json" if form == "json" else "torchctl.render.nccl_trace")
    if form != "json" and sys.stdout.isatty():
        names += ["rich.console", "rich.table"]
    thread = threading.Thread(target=lambda: [importlib.import_module(name) for name in names])
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _views(decoded: list[tuple[RawDump, Dump]], choice: Choice) -> list[TraceView]:
    from torchctl.flightrec.view import view_of

    return [
        view_of(dump, raw.rank, choice, answered_ns=raw.answered_ns, written_ns=raw.written_ns)
        for raw, dump in decoded
    ]


def _refuse_unknown_group(views: list[TraceView], group: str) -> None:
    if not views or any(view.groups or view.asked for view in views):
        return
    from torchctl.flightrec.summary import group_names

    names = ", ".join(group_names(view.dump for view in views))
    raise TorchctlError(
        f"no dump has a process group named {group}", hint=f"the groups are: {names or 'none at all'}"
    )


def _show(views: list[TraceView], failures: list[Failure], form: str) -> None:
    if form == "json":
        from torchctl.render.nccl_trace_json import as_json

        click.echo(as_json(views, failures))
        return
    from torchctl.render.nccl_trace import plain_lines, print_rich, suits_rich

    if sys.stdout.isatty() and suits_rich(views):
        print_rich(views)
    elif views:
        click.echo("\n".join(plain_lines(views)))


def _report(views: list[TraceView], failures: list[Failure]) -> int:
    """Print one line per failure on stderr; return their exit code, or 3 for a mixed result."""
    if not failures:
        return EXIT_OK
    from torchctl.render.nccl_trace import error_lines

    for failure in failures:
        click.echo("\n".join(error_lines(failure.error)), err=True)
    codes = {failure.error.exit_code for failure in failures}
    return EXIT_UNREACHABLE if views or len(codes) > 1 else codes.pop()
