"""`torchctl diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.commands.types import Seconds
from torchctl.errors import EXIT_FAILED, EXIT_FINDING, EXIT_INTERRUPTED, EXIT_OK, TorchctlError
from torchctl.text import printable
from torchctl.workers.targets import Targets

_MOST_NOTES = 8  # on stderr; a folder may hold a thousand files from an earlier run

if TYPE_CHECKING:
    from torchctl.diagnosis.evidence import Evidence
    from torchctl.diagnosis.model import Diagnosis


@click.command(cls=GroupedCommand)
@partial(worker_options, unlisted={"ranks"})
@click.option("--rank-from", metavar="REGEX", help="Take the rank from a file's path: the first group of this pattern.")
@click.option(
    "--save",
    type=click.Path(),
    metavar="DIR",
    help="Save the workers' evidence; `diagnose DIR` gives the same verdict.",
)
@click.option("--watch", is_flag=True, help="Keep looking until something is wrong.")
@click.option(
    "--interval",
    type=Seconds(),
    default=1.0,
    show_default=True,
    help="Pause between two looks at live workers, and between rounds of --watch.",
)
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[DIR|FILE]...")
def command(
    targets: Targets,
    rank_from: str | None,
    save: str | None,
    watch: bool,
    interval: float,
    paths: tuple[str, ...],
) -> int:
    """Find the rank that holds up the job, and what it is doing.

    Without arguments, diagnose looks at the live workers twice. Given folders or files, it reads their
    flight-recorder dumps, stacks (traceback_rank_3.txt, py-spy's, torch's debug server's) and logs; - is a log on
    standard input.

    Exit code 0: nothing is wrong. 6: something is wrong. 1: it cannot be determined.
    """
    named = bool(targets.sockets or targets.hosts or targets.ranks is not None)
    if paths and (named or save is not None or watch):
        raise click.UsageError("--socket, --host, --save and --watch only apply to live workers, not to files")
    if rank_from is not None and not paths:
        raise click.UsageError("--rank-from reads ranks from paths: give a folder of dumps")
    if targets.ranks is not None:
        raise click.UsageError(
            "--ranks cannot be used here: a verdict needs every rank, and one that is not asked would look lost"
        )
    _require_numpy()
    if paths:
        from torchctl.reports.evidence import read_evidence

        evidence = read_evidence(paths, rank_from=rank_from)
        return _show(evidence, targets.as_json, list(paths))
    from torchctl.diagnosis.diagnose import diagnose
    from torchctl.reports.diagnosis import look, watching
    from torchctl.reports.evidence import make_folder, save_evidence

    if save is not None:
        make_folder(save)  # before asking any worker: the evidence may not be available again
    keep = save is not None
    evidence = (watching if watch else look)(targets, interval, diagnose, everything=keep)
    if save is not None:
        save_evidence(evidence, save)
    return _show(evidence, targets.as_json, [])


def _show(evidence: Evidence, as_json: bool, paths: list[str]) -> int:
    from torchctl.diagnosis.diagnose import diagnose

    diagnosis = diagnose(evidence)
    _say(evidence.trace.notes, "more dumps are ignored")
    _say([str(one) for one in evidence.unread], "more stacks could not be read")
    if as_json:
        from torchctl.render.json import document

        failures = [one.as_dict() for one in evidence.unread]
        click.echo(document("diagnosis", {**diagnosis.as_dict(), "failures": failures}))
    else:
        from torchctl.render.diagnosis import print_diagnosis
        from torchctl.render.nextstep import files_of

        print_diagnosis(diagnosis, evidence.places, files_of(evidence, paths) if paths else None)
    if evidence.interrupted or evidence.ended:
        click.echo("torchctl: interrupted", err=True)
        return EXIT_INTERRUPTED
    return exit_code(diagnosis)


def _say(notes: Sequence[str], more: str) -> None:
    for note in notes[:_MOST_NOTES]:
        click.echo(f"torchctl: {printable(note)}", err=True)
    if len(notes) > _MOST_NOTES:
        click.echo(f"torchctl: and {len(notes) - _MOST_NOTES} {more}", err=True)


def exit_code(diagnosis: Diagnosis) -> int:
    """Return 0 for a healthy job, 6 for one with a finding, 1 if it cannot be determined."""
    if diagnosis.healthy is None:
        return EXIT_FAILED
    return EXIT_OK if diagnosis.healthy else EXIT_FINDING


def _require_numpy() -> None:
    from importlib.util import find_spec  # importing NumPy takes 50 ms, and the dumps need not wait for it

    if find_spec("numpy") is None:
        raise TorchctlError("diagnose needs NumPy", hint="pip install 'torchctl[analysis]'")
