"""`torchctl ps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.errors import NoWorkersError
from torchctl.protocol import runtimedir
from torchctl.render.failures import failures_json
from torchctl.text import printable
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.info import WorkerInfo, ask_info
from torchctl.workers.roll import find_workers
from torchctl.workers.rollcall import rank_of
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets

_NOWHERE = str(Endpoint())  # the endpoint of a store entry without an address
if TYPE_CHECKING:
    from torchctl.process.deaths import Attempt
    from torchctl.process.lastword import LastWord


@click.command(cls=GroupedCommand)
@worker_options
@click.option(
    "--save", metavar="FILE", type=click.Path(), help="Also write the workers' addresses to FILE, for --hostfile."
)
@click.option("--forget", is_flag=True, help="First delete the records of dead workers.")
def command(targets: Targets, save: str | None, forget: bool) -> None:
    """List the workers, with their job, uptime, step and state.

    Workers that died within the last day are listed below them, those of a job in the order of their deaths. Without
    options, ps lists the workers that TORCH_WORKER_SERVER_SOCKET names, or else every live worker in this user's
    runtime folder.
    """
    if forget:
        from torchctl.process import lastword

        lastword.forget(runtimedir.runtime_dir())
    try:
        result = survey(find_workers(targets), ask_info)
    except NoWorkersError as error:
        died = _died(targets, {})
        if targets.as_json:
            error.details["died"] = _died_json(died)
        else:
            _print_died(died)
        raise
    died = _died(targets, _started(result))
    if targets.as_json:
        from torchctl.render.json import document
        from torchctl.render.ps import ps_json

        click.echo(document("ps", {"workers": ps_json(result), "died": _died_json(died), **failures_json(result)}))
    else:
        from torchctl.render.console import console, text
        from torchctl.render.ps import degraded_lines, ps_table

        out = console()
        out.print(ps_table(result, out.width))
        for line in degraded_lines(result):
            out.print(text(line, "red"), soft_wrap=True)
        failed = {one.endpoint.path for one in result.outcomes if one.error is not None}
        _print_died([word for word in died if word.endpoint not in failed])  # stderr shows the others as reasons
    if save is not None:
        _save(result, save)
    finish(result, degraded_told=True)


def _started(result: Survey[WorkerInfo]) -> dict[str, float]:
    """Return when the first live worker of each job was started."""
    starts: dict[str, float] = {}
    for _, info in result.answers:
        if info.job_id is not None and info.start_time is not None:
            starts[info.job_id] = min(info.start_time, starts.get(info.job_id, info.start_time))
    return starts


def _died(targets: Targets, live: Mapping[str, float]) -> list[LastWord]:
    """Return the last words of this host's workers that the options do not exclude, in the order to list them.

    An orderly end is listed only if other ranks of the same attempt at the job died otherwise, or still live.
    """
    if targets.names_any():
        return []
    from torchctl.process.deaths import attempts_of, by_job, lived_with
    from torchctl.workers.causes import last_words

    def counts(attempt: Attempt) -> bool:
        started = live.get(attempt.job_id or "")
        return bool(attempt.dead) or (started is not None and lived_with(attempt.words[-1], started))

    return [
        word
        for word in by_job([one for one in attempts_of(last_words(orderly=True)) if counts(one)])
        if (targets.ranks is None or word.rank in targets.ranks) and targets.job in (None, word.job_id)
    ]


def _print_died(died: list[LastWord]) -> None:
    from torchctl.render.ps import died_lines
    from torchctl.workers.causes import death

    of = [f"rank {'?' if word.rank is None else word.rank}, pid {word.pid}: {death(word)}" for word in died]
    for line in died_lines(of):
        click.echo(line)


def _died_json(died: list[LastWord]) -> list[dict[str, object]]:
    return [word._asdict() for word in died]


def _save(result: Survey[WorkerInfo], path: str) -> None:
    """Write all workers that were found, including silent ones, which may answer another time."""
    from torchctl.files import write_file
    from torchctl.workers.find.hostfile import hostfile_text

    found = [(one.endpoint, rank_of(one)) for one in result.outcomes if str(one.endpoint) != _NOWHERE]
    text, left_out = hostfile_text(found)
    write_file(path, text.encode("utf-8", "surrogateescape"))
    written = len(found) - len(left_out)
    plural = "s" * (written != 1)
    click.echo(f"torchctl: {written} worker{plural} written to {printable(path)}", err=True)
    if left_out:
        shown = ", ".join(printable(str(one)) for one in left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        click.echo(f"torchctl: {len(left_out)} of them cannot be written in a host file: {shown}", err=True)
