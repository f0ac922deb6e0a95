"""The end of a worker command: what failed on stderr, then the exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from torchctl.render.failures import failure_lines
from torchctl.workers.survey import Survey


def finish(
    survey: Survey[Any], *, code: int | None = None, told: bool = False, degraded_told: bool = False
) -> NoReturn:
    """Print the failures and exit by the survey's code, or by `code` where the command knows better.

    Args:
        told: the same screen shows the failures already: only hints and notes are left to say.
        degraded_told: stdout says which workers' sentinels have answered in their place.
    """
    for line in failure_lines(survey, told=told, degraded_told=degraded_told):
        click.echo(line, err=True)
    raise SystemExit(survey.exit_code if code is None else code)
