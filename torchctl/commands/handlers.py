"""`torchctl handlers`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click

from torchctl.client import request
from torchctl.endpoint import Endpoint
from torchctl.errors import AccessDeniedError, NotAWorkerError
from torchctl.finish import finish
from torchctl.options import worker_options
from torchctl.protocol import HANDLER_PATH
from torchctl.ranks import fold_ranks
from torchctl.render.failures import failures_json
from torchctl.survey import Survey, survey
from torchctl.targets import Targets
from torchctl.text import printable

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Handlers:
    """One worker's handler names."""

    rank: int | None
    names: tuple[str, ...]


@click.command()
@worker_options
def command(targets: Targets) -> None:
    """List the handlers that the workers offer.

    A name that only some workers have is followed by their ranks.
    """
    result = survey(targets, ask_names)
    text = _json(result) if targets.as_json else _lines(result)
    if text:
        click.echo(text)
    finish(result)


def ask_names(endpoint: Endpoint, deadline: float) -> Handlers:
    """Return the names that a worker lists.

    Raises:
        WorkerError: as `client.request`; NotAWorkerError when it is no list of names.
    """
    reply = request(endpoint, "GET", HANDLER_PATH, deadline, max_bytes=_MAX_BYTES)
    if reply.status == 401:
        raise AccessDeniedError("wants a token, and did not accept ours", endpoint=str(endpoint), rank=reply.rank)
    try:
        names = json.loads(reply.body) if reply.status == 200 else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotAWorkerError("sent no list of handlers", endpoint=str(endpoint), rank=reply.rank)
    return Handlers(reply.rank, tuple(sorted(names)))


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
