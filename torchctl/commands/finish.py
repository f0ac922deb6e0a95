"""Finish a worker command: print the failures on stderr, then set the exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from torchctl.render.failures import failure_lines
from torchctl.workers.survey import Survey


def finish(
    survey: Survey[Any], *, code: int | None = None, told: bool = False, degraded_told: bool = False
) -> NoReturn:
    """Print the failures and exit with the survey's code, or with `code` if the command passes one.

    Args:
        told: the screen already shows the failures, so only print hints and notes.
        degraded_told: stdout already shows which workers' sentinels answered for them.
    """
    for line in failure_lines(survey, told=told, degraded_told=degraded_told):
        click.echo(line, err=True)
    raise SystemExit(survey.exit_code if code is None else code)
