"""`torchctl ps`."""

from __future__ import annotations

import click

from torchctl.finish import finish
from torchctl.options import worker_options
from torchctl.render.failures import failures_json
from torchctl.survey import survey
from torchctl.targets import Targets
from torchctl.workerinfo import ask_info


@click.command()
@worker_options
def command(targets: Targets) -> None:
    """List the workers: rank, host, pid, job, uptime, step, state, endpoint.

    Without --socket or --host: those that TORCH_WORKER_SERVER_SOCKET names, else every live worker in this
    user's runtime folder.
    """
    result = survey(targets, ask_info)
    if targets.as_json:
        from torchctl.render.json import document
        from torchctl.render.ps import ps_json

        click.echo(document("ps", {"workers": ps_json(result), **failures_json(result)}))
    else:
        from torchctl.render.console import console
        from torchctl.render.ps import ps_table

        out = console()
        out.print(ps_table(result, out.width))
    finish(result)
