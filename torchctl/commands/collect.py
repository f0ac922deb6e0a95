"""`torchctl collect`."""

from __future__ import annotations

import click

from torchctl.collecting import Collected, Collection
from torchctl.finish import finish
from torchctl.options import worker_options
from torchctl.ranks import fold_ranks
from torchctl.render.failures import failures_json
from torchctl.survey import Survey, survey
from torchctl.targets import Targets
from torchctl.text import printable


@click.command()
@worker_options
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
def command(targets: Targets, folder: str) -> None:
    """Save everything that every worker tells into DIR: info, stacks, traces, and what is missing and why.

    For the minute before a job is restarted. A second run into the same DIR asks for what is missing. The files
    are read by the commands that take a folder, such as `torchctl traceback DIR`.
    """
    collection = Collection(folder)
    result = survey(targets, collection.question())
    path = collection.finish(result.outcomes, result.not_found)
    if targets.as_json:
        click.echo(_json(result, path))
    else:
        click.echo("\n".join(_lines(result, path)))
    finish(result)


def _lines(result: Survey[Collected], path: str) -> list[str]:
    whole = [answer for _, answer in result.answers if not answer.failures]
    ranks = fold_ranks(answer.rank for answer in whole if answer.rank is not None)
    lines = [f"everything of {len(whole)} worker(s){f', ranks {ranks}' if ranks else ''}"]
    for _, answer in result.answers:
        for part, reason in sorted(answer.failures.items()):
            who = "rank ?" if answer.rank is None else f"rank {answer.rank}"
            lines.append(f"{who}: no {part}: {printable(reason)}")
    return [*lines, f"written down in {printable(path)}"]


def _json(result: Survey[Collected], path: str) -> str:
    from torchctl.render.json import document

    workers = [
        {"rank": answer.rank, "endpoint": str(endpoint), "files": answer.files, "missing": answer.failures}
        for endpoint, answer in result.answers
    ]
    return document("collect", {"manifest": path, "workers": workers, **failures_json(result)})
