"""Workers that did not answer, in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchctl.errors import WorkerError
from torchctl.ranks import fold_ranks
from torchctl.survey import HasRank, Survey
from torchctl.text import printable


def failure_lines(survey: Survey[Any]) -> list[str]:
    """Return the lines for stderr: one per worker that failed, then each kind's hint once, then the notes."""
    errors = _errors(survey)
    lines = [f"torchctl: {printable(str(error))}" for error in errors]
    if survey.missing_ranks:
        lines.append(f"torchctl: rank {fold_ranks(survey.missing_ranks)}: no worker found")
    lines += [f"  {hint}" for hint in dict.fromkeys(error.hint for error in errors if error.hint)]
    return lines + [f"torchctl: {printable(note)}" for note in survey.notes]


def failures_json(survey: Survey[Any]) -> dict[str, Any]:
    """Return the part of every command's JSON that names the workers without an answer."""
    return {
        "failures": [
            {"rank": error.rank, "endpoint": error.endpoint, "kind": error.kind, "message": error.message}
            for error in _errors(survey)
        ],
        "missing_ranks": survey.missing_ranks,
    }


def _errors(survey: Survey[HasRank]) -> list[WorkerError]:
    found: Iterable[WorkerError] = (outcome.error for outcome in survey.outcomes if outcome.error is not None)
    return sorted(found, key=lambda error: (error.rank is None, error.rank or 0, error.endpoint))
