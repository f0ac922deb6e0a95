"""The table and the JSON of `torchctl ps`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from torchctl.render.console import text
from torchctl.text import duration, printable
from torchctl.workers.ask.reply import degraded_words
from torchctl.workers.endpoint import RUNTIME_FOLDER, Endpoint
from torchctl.workers.questions.info import WorkerInfo
from torchctl.workers.rollcall import rank_of
from torchctl.workers.survey import Survey

_WIDE = 120  # columns needed for a full row
_NARROW = 64
_LEFT_OUT = ("host", "job", "uptime")  # omitted below `_NARROW` columns; JSON has them
_SHORT_JOB = 9
_COLUMNS = ("rank", "host", "pid", "job", "uptime", "step", "state", "endpoint")


def ps_table(survey: Survey[WorkerInfo], width: int) -> Table:
    """Return one row per worker asked, by rank; workers that did not answer come first, because they need attention.

    Below `_WIDE` columns, job ids are cut, and the folder that all sockets share moves to the last line.
    """
    folder = "" if width >= _WIDE else _shared_folder([str(outcome.endpoint) for outcome in survey.outcomes])
    shown = [index for index, name in enumerate(_COLUMNS) if width >= _NARROW or name not in _LEFT_OUT]
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left", caption_style="dim")
    notes = [f"sockets in {folder}"] if folder else []
    notes += _sources(survey)
    if notes:
        table.caption = Text("\n").join(text(note) for note in notes)
    for name in (_COLUMNS[index] for index in shown):
        right = name in ("rank", "pid", "uptime")
        fixed = name in ("rank", "pid", "state")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=fixed)
    for outcome in sorted(survey.outcomes, key=lambda one: (rank_of(one) is None, rank_of(one) or 0)):
        if outcome.error is not None:
            rank = "?" if outcome.error.rank is None else str(outcome.error.rank)
            cells = [rank, "", "", "", "", "", outcome.error.kind.replace("_", " ")]
            cells.append(_name(outcome.endpoint, folder) if folder else outcome.error.endpoint)
            table.add_row(*(text(cells[index], "red") for index in shown))
    for endpoint, info in survey.answers:
        state = text("ok", "green") if info.degraded is None else text("degraded", "bold red")
        row = [*map(text, _cells(info, width)), state, text(_name(endpoint, folder))]
        table.add_row(*(row[index] for index in shown))
    return table


def _sources(survey: Survey[WorkerInfo]) -> list[str]:
    """Return how the workers were found, if not in the usual way."""
    counts = Counter(outcome.endpoint.source for outcome in survey.outcomes)
    if set(counts) <= {RUNTIME_FOLDER}:
        return []
    return ["found by " + ", ".join(f"{source} ({count})" for source, count in sorted(counts.items()))]


def _shared_folder(paths: list[str]) -> str:
    folders = {os.path.dirname(path) for path in paths}
    return folders.pop() if len(folders) == 1 else ""


def _name(endpoint: Endpoint, folder: str) -> str:
    return os.path.basename(endpoint.path) if folder and endpoint.path else str(endpoint)


def _cells(info: WorkerInfo, width: int) -> list[str]:
    job = info.job_id or "-"
    if width < _WIDE and len(job) > _SHORT_JOB:
        job = job[: _SHORT_JOB - 1] + "…"
    step = "-" if info.step is None else str(info.step)
    if info.step_age_s is not None:
        step += f" ({duration(int(info.step_age_s))} ago)"
    return [
        "?" if info.rank is None else str(info.rank),
        info.host or "-",
        "-" if info.pid is None else str(info.pid),
        job,
        "-" if info.uptime_s is None else duration(int(info.uptime_s)),
        step,
    ]


def degraded_lines(survey: Survey[WorkerInfo]) -> list[str]:
    """Return a line for each worker whose sentinel answers for it: since when, and why."""
    return [
        printable(f"rank {'?' if info.rank is None else info.rank} {degraded_words(outcome.identity)}")
        for outcome in survey.answered
        if (info := outcome.value) is not None and info.degraded is not None
    ]


def died_lines(words: Sequence[str], shown: int = 20) -> list[str]:
    """Return a line for each worker that died, in the order given, and one line for those not shown."""
    lines = [printable(word) for word in words[:shown]]
    more = len(words) - shown
    return [*lines, f"and {more} more; --forget removes them"] if more > 0 else lines


def ps_json(survey: Survey[WorkerInfo]) -> list[dict[str, Any]]:
    """Return the workers that answered, for JSON."""
    return [
        {
            "rank": info.rank,
            "world_size": info.world_size,
            "host": info.host,
            "pid": info.pid,
            "job_id": info.job_id,
            "uptime_s": info.uptime_s,
            "step": info.step,
            "step_age_s": info.step_age_s,
            "server": info.server,
            "state": "ok" if info.degraded is None else "degraded",
            "reason": info.degraded,
            "since": info.since,
            "sentinel": info.sentinel,
            "endpoint": str(endpoint),
            "found_by": endpoint.source,
        }
        for endpoint, info in survey.answers
    ]
