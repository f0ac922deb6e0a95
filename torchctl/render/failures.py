"""Render workers that did not answer, as text or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torchctl.errors import WorkerError
from torchctl.ranks import Member, fold_ranks
from torchctl.text import printable
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.reply import degraded_words
from torchctl.workers.rollcall import rank_of
from torchctl.workers.survey import Survey

_SENTENCES = 3  # how many failures of one kind get a sentence each; more are folded into one line


def failure_lines(survey: Survey[Any], *, told: bool = False, degraded_told: bool = False) -> list[str]:
    """Return the lines for stderr: the failures, each kind's hint once, then the notes.

    Args:
        told: the screen already shows the failures.
        degraded_told: the screen already shows which workers' sentinels answered for them, and why.
    """
    lines = [] if told else [f"torchctl: {line}" for line in reasons(survey)]
    lines += [] if degraded_told else [f"torchctl: {line}" for line in _degraded(survey)]
    lines += [f"  {hint}" for hint in dict.fromkeys(error.hint for error in _errors(survey) if error.hint)]
    return lines + [f"torchctl: {printable(note)}" for note in survey.notes]


def reasons(survey: Survey[Any], room: int = 0) -> list[str]:
    """Return why workers are missing: one sentence each for a few, one line per kind for many.

    Args:
        room: columns for a folded list of ranks; 0 for no limit.
    """
    hosts = {one.endpoint.node for one in survey.outcomes if one.endpoint.node and not one.endpoint.path}
    by_kind: dict[str, list[WorkerError]] = {}
    for error in _errors(survey):
        by_kind.setdefault(error.kind, []).append(error)
    lines = []
    for kind, errors in by_kind.items():
        if len(errors) <= _SENTENCES:
            lines += [printable(str(error)) for error in errors]
        else:
            lines.append(f"{_who(errors, hosts, room)}: {kind.replace('_', ' ')} ({len(errors)})")
    if survey.missing_ranks:
        lines.append(f"rank {fold_ranks(survey.missing_ranks)}: no worker found")
    return lines + _not_found(survey, room)


def _degraded(survey: Survey[Any]) -> list[str]:
    """Return a line for each worker whose sentinel answered for it, or one line if there are many."""
    found = [one for one in survey.answered if one.identity.degraded is not None]
    if len(found) <= _SENTENCES:
        return [
            printable(f"{_name(one)}: its sentinel answered in its place: {degraded_words(one.identity)}")
            for one in found
        ]
    from torchctl.render.members import folded

    members: list[Member] = [str(one.endpoint) if (rank := rank_of(one)) is None else rank for one in found]
    return [f"{printable(folded(members, 200))}: their sentinels answered in their place ({len(found)})"]


def _name(one: Outcome[Any]) -> str:
    rank = rank_of(one)
    return str(one.endpoint) if rank is None else f"rank {rank}"


def _who(errors: Sequence[WorkerError], hosts: set[str], room: int) -> str:
    """Return the ranks as ranges, whole hosts as one list in ClusterShell's grammar, other workers by name."""
    from torchctl.render.members import folded

    members: list[Member] = [error.endpoint if error.rank is None else error.rank for error in errors]
    named = [member for member in members if isinstance(member, str)]
    whole = [name for name in named if name in hosts]
    if len(whole) > 1:
        from torchctl.workers.find.hostlist import fold_hosts

        members = [member for member in members if member not in hosts] + [fold_hosts(whole)]
    text = printable(folded(members, max(room - 30, 20) if room else 200))
    return text if len(named) == len(errors) else f"ranks {text}"


def _not_found(survey: Survey[Any], room: int) -> list[str]:
    if not survey.not_found:
        return []
    from torchctl.render.members import folded

    unnamed = sum(error.rank is None for error in _errors(survey))
    may = f"; {unnamed} that did not answer may be among them" if unnamed else ""
    word = "not registered" if survey.from_store else "not found"
    lines = []
    for job, ranks in survey.not_found.items():
        of = f" of job {printable(job)}" if job and len(survey.not_found) > 1 else ""
        shown = folded(ranks, max(room - 24, 20) if room else 200)
        lines.append(f"rank{'s' * (len(ranks) > 1)} {shown}{of}: {word} ({len(ranks)}{may})")
    return lines


def failures_json(survey: Survey[Any]) -> dict[str, Any]:
    """Return the part of every command's JSON that lists the workers that did not answer."""
    return {
        "failures": [
            {"rank": error.rank, "endpoint": error.endpoint, "kind": error.kind, "message": error.message}
            for error in _errors(survey)
        ],
        "missing_ranks": survey.missing_ranks,
        "not_found": [{"job_id": job, "ranks": ranks} for job, ranks in survey.not_found.items()],
    }


def _errors(survey: Survey[Any]) -> list[WorkerError]:
    found: Iterable[WorkerError] = (outcome.error for outcome in survey.outcomes if outcome.error is not None)
    return sorted(found, key=lambda error: (error.rank is None, error.rank or 0, error.endpoint))
