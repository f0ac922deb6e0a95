"""`torchctl handlers`."""

from __future__ import annotations

from collections.abc import Sequence
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
        lines.append(printable(name) + ("" if len(having) == len(answers) else f"  ({_who(having)})"))
    return "\n".join(lines)


def _who(answers: Sequence[Handlers]) -> str:
    ranks = [answer.rank for answer in answers if answer.rank is not None]
    count, noun = (len(ranks), "rank") if ranks else (len(answers), "worker")
    return f"{noun}{'s' * (count != 1)} {fold_ranks(ranks)}" if ranks else f"{count} {noun}{'s' * (count != 1)}"


def _json(result: Survey[Handlers]) -> str:
    from torchctl.render.json import document

    workers = [
        {
            "rank": answer.rank,
            "endpoint": str(one.endpoint),
            "handlers": answer.names,
            "degraded": one.identity.degraded,
        }
        for one in result.answered
        if (answer := one.value) is not None
    ]
    return document("handlers", {"workers": workers, **failures_json(result)})
