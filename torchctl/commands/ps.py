"""`torchctl ps`."""

from __future__ import annotations

import click

from torchctl.endpoint import Endpoint
from torchctl.finish import finish
from torchctl.options import worker_options
from torchctl.render.failures import failures_json
from torchctl.rollcall import rank_of
from torchctl.survey import Survey, survey
from torchctl.targets import Targets
from torchctl.text import printable
from torchctl.workerinfo import WorkerInfo, ask_info

_NOWHERE = str(Endpoint())  # of an entry in a store that names no address


@click.command()
@worker_options
@click.option("--save", metavar="FILE", type=click.Path(), help="Also write a host file with them, for --hostfile.")
def command(targets: Targets, save: str | None) -> None:
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
    if save is not None:
        _save(result, save)
    finish(result)


def _save(result: Survey[WorkerInfo], path: str) -> None:
    """Write everybody that was found, the silent ones too: they may answer another time."""
    from torchctl.discovery.hostfile import hostfile_text
    from torchctl.files import write_file

    found = [(one.endpoint, rank_of(one)) for one in result.outcomes if str(one.endpoint) != _NOWHERE]
    text, left_out = hostfile_text(found)
    write_file(path, text.encode("utf-8", "surrogateescape"))
    click.echo(f"torchctl: {len(found) - len(left_out)} worker(s) in {printable(path)}", err=True)
    if left_out:
        shown = ", ".join(printable(str(one)) for one in left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        click.echo(f"torchctl: no host file can name {len(left_out)} of them: {shown}", err=True)
