"""`torchctl ping`."""

from __future__ import annotations

from functools import partial

import click

from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.render.failures import failures_json
from torchctl.text import duration
from torchctl.workers.ask.reply import Reply, degraded_words
from torchctl.workers.questions.basic import ping
from torchctl.workers.roll import find_workers
from torchctl.workers.survey import Survey, survey
from torchctl.workers.targets import Targets


@click.command(cls=GroupedCommand)
@partial(worker_options, unlisted={"pids"})
def command(targets: Targets) -> None:
    """Check that every worker answers.

    Prints the round-trip time of one request on a new connection. If a worker cannot answer, its sentinel
    reports `degraded`, with the time and the reason.
    """
    result = survey(find_workers(targets), ping)
    text = _json(result) if targets.as_json else _table(result)
    if text:
        click.echo(text)
    finish(result, degraded_told=True)


def _table(result: Survey[Reply]) -> str:
    from torchctl.render.plain import columns

    rows = [
        [
            "rank ?" if reply.rank is None else f"rank {reply.rank}",
            "pong" if reply.identity.degraded is None else "degraded",
            duration(reply.elapsed_s),
            "" if reply.pid is None else f"pid {reply.pid}",
            str(endpoint),
            degraded_words(reply.identity).removeprefix("degraded "),
        ]
        for endpoint, reply in result.answers
    ]
    return columns(rows, right=frozenset({2}))


def _json(result: Survey[Reply]) -> str:
    from torchctl.render.json import document

    workers = [
        {
            "rank": reply.rank,
            "pid": reply.pid,
            "endpoint": str(endpoint),
            "state": "ok" if reply.identity.degraded is None else "degraded",
            "reason": reply.identity.degraded,
            "since": reply.identity.since,
            "rtt_ms": round(reply.elapsed_s * 1000, 3),
        }
        for endpoint, reply in result.answers
    ]
    return document("ping", {"workers": workers, **failures_json(result)})
