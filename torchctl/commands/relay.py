"""`torchctl relay`."""

from __future__ import annotations

import os
import sys
import time

import click

from torchctl.errors import EXIT_OK, TorchctlError
from torchctl.protocol import compact_json
from torchctl.workers.hosts.relay import VERSION, Writer, decode_errand, recording
from torchctl.workers.questions import named_question
from torchctl.workers.roll import find_workers
from torchctl.workers.survey import survey
from torchctl.workers.targets import Targets


@click.command()
@click.argument("errand")
def command(errand: str) -> int:
    """Ask this host's workers on behalf of another host.

    `--nodes` runs this on each host; ERRAND is its request, encoded. Writes one line of JSON per worker. A stack
    that several workers share is written once.
    """
    try:
        wanted = decode_errand(errand)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ERRAND") from None
    try:
        asked = recording(named_question(wanted.question, wanted.arguments))
    except (ValueError, KeyError, TypeError, AttributeError):
        words = f"this torchctl cannot ask {wanted.question!r} with these arguments; the asking host's may be newer"
        raise click.BadParameter(words, param_hint="ERRAND") from None
    _write({"relay": VERSION, "host": os.uname().nodename, "time": time.time()})
    try:
        targets = Targets(ranks=wanted.ranks, timeout_s=wanted.timeout_s, job=wanted.job)
        result = survey(find_workers(targets), asked)
    except TorchctlError as error:
        _write({"trouble": error.message})
        _write({"end": 0})
        return EXIT_OK
    failures = [(one.endpoint, ended) for one in result.outcomes if one.value and (ended := one.value.failure)]
    if failures:
        from torchctl.workers.causes import explain_deaths

        explain_deaths(failures)  # known only here; explaining silence takes two looks, and the time is up by then
    writer = Writer()
    for outcome in result.outcomes:
        for line in writer.lines(outcome):
            sys.stdout.write(line + "\n")
    _write({"end": len(result.outcomes)})
    return EXIT_OK


def _write(document: dict[str, object]) -> None:
    sys.stdout.write(compact_json(document) + "\n")
    sys.stdout.flush()
