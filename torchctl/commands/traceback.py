"""`torchctl traceback`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from torchctl.client import call
from torchctl.endpoint import Endpoint
from torchctl.errors import NotAWorkerError
from torchctl.finish import finish
from torchctl.options import worker_options
from torchctl.render.failures import failures_json
from torchctl.stacks.stack import Stacks, parse_stacks
from torchctl.survey import Survey, survey
from torchctl.targets import Targets


@dataclass(frozen=True, slots=True)
class WorkerStacks:
    """One worker's answer."""

    rank: int | None
    pid: int | None
    stacks: Stacks


@click.command()
@worker_options
@click.option("--all-threads", is_flag=True, help="Every thread; by default the main one.")
def command(targets: Targets, all_threads: bool) -> None:
    """Show where every worker stands in its Python code.

    The most recent call comes last; `>` marks the innermost frame of the user's own code.
    """
    result = survey(targets, ask_stacks)
    if targets.as_json:
        click.echo(_json(result))
    else:
        _print(result, all_threads)
    finish(result)


def ask_stacks(endpoint: Endpoint, deadline: float) -> WorkerStacks:
    """Return a worker's stacks; torch's own server ignores the parameter and answers text.

    Raises:
        WorkerError: as `client.call`; NotAWorkerError for an answer that holds no stacks.
    """
    reply = call(endpoint, "dump_traceback", deadline, params={"format": "json"})
    try:
        return WorkerStacks(reply.rank, reply.pid, parse_stacks(reply.body))
    except ValueError as error:
        raise NotAWorkerError(f"sent no stacks: {error}", endpoint=str(endpoint), rank=reply.rank) from error


def _print(result: Survey[WorkerStacks], all_threads: bool) -> None:
    from torchctl.render.console import console, text
    from torchctl.render.traceback import traceback_lines

    out = console()
    colour = out.is_terminal and not out.no_color
    for number, (endpoint, answer) in enumerate(result.answers):
        if number:
            out.print()
        pid = "" if answer.pid is None else f"  pid {answer.pid}"
        rank = "rank ?" if answer.rank is None else f"rank {answer.rank}"
        out.print(text(f"{rank}{pid}  {endpoint}", "bold"), soft_wrap=True)
        for line in traceback_lines(answer.stacks, all_threads=all_threads, colour=colour):
            out.print(line, soft_wrap=True)


def _json(result: Survey[WorkerStacks]) -> str:
    from torchctl.render.json import document
    from torchctl.render.traceback import stacks_json

    workers: list[dict[str, Any]] = [
        {"rank": answer.rank, "pid": answer.pid, "endpoint": str(endpoint), **stacks_json(answer.stacks)}
        for endpoint, answer in result.answers
    ]
    return document("traceback", {"workers": workers, **failures_json(result)})
