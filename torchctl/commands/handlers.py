"""`torchctl handlers`."""

from __future__ import annotations

from functools import partial

import click

from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.ranks import fold_ranks
from torchctl.render.failures import failures_json
from torchctl.text import printable
from torchctl.workers.questions.basic import Handlers, ask_names
from torchctl.workers.roll import find_workers
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets


@click.command(cls=GroupedCommand)
@partial(worker_options, unlisted={"pids"})
def command(targets: Targets) -> None:
    """List the handlers that the workers offer.

    If only some workers have a handler, its name is followed by their ranks.
    """
    result = survey(find_workers(targets), ask_names)
    text = _json(result) if targets.as_json else _lines(result)
    if text:
        click.echo(text)
    finish(result)


def _lines(result: Survey[Handlers]) -> str:
    answers = [answer for _, answer in result.answers]
    lines = []
    for name in sorted({name for answer in answers for name in answer.names}):
        having = [answer for answer in answers if name in answer.names]
        ranks = fold_ranks(answer.rank for answer in having if answer.rank is not None)
        some = "" if len(having) == len(answers) else f"  ({f'ranks {ranks}' if ranks else f'{len(having)} workers'})"
        lines.append(printable(name) + some)
    return "\n".join(lines)


def _json(result: Survey[Handlers]) -> str:
    from torchctl.render.json import document

    workers = [
        {"rank": answer.rank, "endpoint": str(endpoint), "handlers": answer.names}
        for endpoint, answer in result.answers
    ]
    return document("handlers", {"workers": workers, **failures_json(result)})
