"""`torchctl collect`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.core import ParameterSource

from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.errors import EXIT_DEADLINE, EXIT_OK, EXIT_UNREACHABLE, NoWorkersError
from torchctl.ranks import fold_ranks
from torchctl.render.failures import failures_json
from torchctl.reports.collection import Collected, Collection
from torchctl.reports.lastwords import of_collected
from torchctl.text import printable
from torchctl.workers.ask.outcome import Outcome, is_stopped
from torchctl.workers.roll import find_workers
from torchctl.workers.rollcall import rank_of
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets

_PIPE_TIMEOUT_S = 30.0  # torch checks its pipes once a second, and a dump takes seconds


@click.command(cls=GroupedCommand)
@worker_options
@click.option("--pipe", metavar="STEM", help="For a job without a server: its TORCH_NCCL_DEBUG_INFO_PIPE_FILE.")
@click.option(
    "--dump-prefix",
    metavar="PREFIX",
    multiple=True,
    help="With --pipe: where the job writes its dumps, without the rank (TORCH_FR_DUMP_TEMP_FILE).",
)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
def command(targets: Targets, folder: str, pipe: str | None, dump_prefix: tuple[str, ...]) -> None:
    """Save what every worker reports into a folder.

    Run it before you restart a job: DIR gets each worker's info, stacks and traces, and a list of what is missing
    and why. A second run with the same DIR asks only for what is missing. Commands that take a folder, such as
    `torchctl traceback DIR`, read the files.
    """
    if pipe is not None:
        raise SystemExit(_from_pipes(targets, folder, pipe, dump_prefix))
    collection = Collection(folder)
    try:
        result = survey(find_workers(targets), collection.question())
    except NoWorkersError as error:
        kept = collection.keep_last_words(of_collected(targets, set()))
        if kept:
            error.details["manifest"] = collection.finish([], {})
            error.details["last_words"] = kept
            if not targets.as_json:
                click.echo(_last_words_line(kept))
        raise
    if not is_stopped(result.outcomes):
        collection.look_from_outside(result.outcomes)
    jobs = {one.identity.job_id for one in result.outcomes if one.value is not None}
    kept = collection.keep_last_words(of_collected(targets, jobs))
    path = collection.finish(result.outcomes, result.not_found)
    if targets.as_json:
        click.echo(_json(result, path, kept))
    else:
        begun = [one for one in result.outcomes if one.error is not None and collection.had_of(str(one.endpoint))]
        click.echo("\n".join([*([_last_words_line(kept)] if kept else []), *_lines(result, begun, path)]))
    partial = result.exit_code == EXIT_OK and any(answer.failures for _, answer in result.answers)
    finish(result, code=EXIT_UNREACHABLE if partial else None)


def _from_pipes(targets: Targets, folder: str, stem: str, prefixes: tuple[str, ...]) -> int:
    """Save the dumps that ranks without a server write when triggered through torch's FIFOs."""
    from torchctl.reports.pipes import collect_from_pipes

    given = click.get_current_context().get_parameter_source("timeout_s")
    timeout_s = _PIPE_TIMEOUT_S if given is ParameterSource.DEFAULT else targets.timeout_s
    answers = collect_from_pipes(stem, folder, prefixes=prefixes, timeout_s=timeout_s)
    got = [answer for answer in answers if answer.path is not None]
    for answer in got:
        click.echo(f"rank {answer.rank}: {printable(str(answer.path))}")
    for answer in answers:
        if answer.path is None:
            click.echo(f"torchctl: rank {answer.rank}: {printable(answer.reason)}", err=True)
    if len(got) == len(answers):
        return EXIT_OK
    return EXIT_DEADLINE if any("within" in answer.reason for answer in answers) else EXIT_UNREACHABLE


def _lines(result: Survey[Collected], begun: Sequence[Outcome[Collected]], path: str) -> list[str]:
    """Return lines about what was saved; `begun` are workers that stopped answering after sending some parts."""
    lines = [f"everything from {_counted([answer.rank for _, answer in result.answers if not answer.failures])}"]
    if begun:
        lines.append(f"only part from {_counted([rank_of(one) for one in begun])}: run it again for the rest")
    for _, answer in result.answers:
        for part, reason in sorted(answer.failures.items()):
            who = "rank ?" if answer.rank is None else f"rank {answer.rank}"
            lines.append(f"{who}: no {part}: {printable(reason)}")
    return [*lines, f"manifest: {printable(path)}"]


def _counted(ranks: Sequence[int | None]) -> str:
    folded = fold_ranks(rank for rank in ranks if rank is not None)
    plural = "s" * (len(ranks) != 1)
    return f"{len(ranks)} worker{plural}" + (f", rank{plural} {folded}" if folded else "")


def _last_words_line(count: int) -> str:
    return f"last words of {count} worker{'s' * (count != 1)} that ended"


def _json(result: Survey[Collected], path: str, last_words: int) -> str:
    from torchctl.render.json import document

    workers = [
        {"rank": answer.rank, "endpoint": str(endpoint), "files": answer.files, "missing": answer.failures}
        for endpoint, answer in result.answers
    ]
    return document(
        "collect", {"manifest": path, "workers": workers, "last_words": last_words, **failures_json(result)}
    )
