"""`torchctl call`."""

from __future__ import annotations

import base64
import contextlib
import sys
import time
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from torchctl import protocol
from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.files import write_file
from torchctl.render.failures import failures_json
from torchctl.text import printable
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.reply import Reply
from torchctl.workers.questions.basic import ask_names, call_question
from torchctl.workers.roll import find_workers
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# A Tab should take at most half a second, and the interpreter's start takes much of that. If no worker has answered
# by then, late names are still better than none.
_COMPLETION_S = 0.25
_SLOW_COMPLETION_S = 1.5
_MOST_COMPLETED = 64  # how many workers to ask


def handler_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the live workers' handlers that match what was typed, or none if anything goes wrong."""
    from click.shell_completion import CompletionItem

    with contextlib.suppress(Exception):
        return [CompletionItem(name) for name in _live_names(ctx.params) if name.startswith(incomplete)]
    return []


def _live_names(params: dict[str, Any]) -> list[str]:
    from torchctl.workers.causes import is_late

    typed = {name: params[name] for name in ("sockets", "hosts", "token_file", "ca") if params.get(name)}
    targets = Targets(**typed, timeout_s=_COMPLETION_S)
    roll = find_workers(targets)
    asked = roll.endpoints[:_MOST_COMPLETED]
    outcomes = ask_all(asked, ask_names, roll.deadline)
    if all(is_late(one.error) for one in outcomes):
        outcomes = ask_all(asked, ask_names, time.monotonic() + _SLOW_COMPLETION_S)
    return sorted({name for outcome in outcomes if outcome.value is not None for name in outcome.value.names})


def _parameters(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    params = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        if name in params:
            raise click.BadParameter(f"{name!r} is given twice")
        params[name] = content
    return params


@click.command(cls=GroupedCommand)
@click.argument("name", shell_complete=handler_names)
@click.option(
    "-p",
    "params",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_parameters,
    help="A parameter of the handler. Repeatable.",
)
@click.option("--body", type=click.File("rb"), help="Send this file (- for stdin) as the request body.")
@click.option("--output", metavar="FILE", help="Write the answer to FILE (FILE.rankN for several workers).")
@partial(worker_options, unlisted={"pids"})
def command(targets: Targets, name: str, params: dict[str, str], body: IO[bytes] | None, output: str | None) -> None:
    """Call a handler and print its raw answer.

    On a terminal, control characters are escaped; a pipe or --output gets the bytes unchanged. With several
    workers, each answer follows a line with its rank.
    """
    data = b"" if body is None else body.read(protocol.MAX_BODY_BYTES + 1)
    if len(data) > protocol.MAX_BODY_BYTES:
        raise click.BadParameter(f"the body is larger than {protocol.MAX_BODY_BYTES} bytes", param_hint="--body")

    result = survey(find_workers(targets), call_question(name, params, data))
    if output is not None:
        _write(result, output)
    elif targets.as_json:
        click.echo(_json(name, result))
    else:
        _print(result)
    finish(result)


def _print(result: Survey[Reply]) -> None:
    out = sys.stdout.buffer
    several = len(result.outcomes) > 1
    for number, (endpoint, reply) in enumerate(result.answers):
        if several:
            head = f"==> {_who(reply)} {printable(str(endpoint))} <==\n"
            out.write((("\n" if number else "") + head).encode())
        if sys.stdout.isatty():
            text = printable(reply.body.decode("utf-8", "backslashreplace"), keep_newlines=True)
            out.write(text.encode("utf-8", "backslashreplace"))
        else:
            out.write(reply.body)
        if (several or sys.stdout.isatty()) and not reply.body.endswith(b"\n"):
            out.write(b"\n")
    out.flush()


def _write(result: Survey[Reply], output: str) -> None:
    written: set[str] = set()
    for number, (_, reply) in enumerate(result.answers):
        path = output
        if len(result.outcomes) > 1:
            path += f".worker{number}" if reply.rank is None else f".rank{reply.rank}"
        if path in written:  # by another worker that claims the same rank
            path += f"_twin{number}"
        written.add(path)
        write_file(path, reply.body)
        click.echo(f"torchctl: {_who(reply)}: {len(reply.body)} bytes written to {path}", err=True)


def _json(name: str, result: Survey[Reply]) -> str:
    from torchctl.render.json import document

    workers = []
    for endpoint, reply in result.answers:
        try:
            content = {"text": reply.body.decode("utf-8")}
        except UnicodeDecodeError:
            content = {"base64": base64.b64encode(reply.body).decode("ascii")}
        workers.append({"rank": reply.rank, "pid": reply.pid, "endpoint": str(endpoint), **content})
    return document("call", {"handler": name, "workers": workers, **failures_json(result)})


def _who(reply: Reply) -> str:
    return "rank ?" if reply.rank is None else f"rank {reply.rank}"
