"""The next step after a diagnosis, as commands that can be pasted unchanged."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torchctl.diagnosis.evidence import ARCHIVE, Evidence, Place
from torchctl.diagnosis.model import DEATHS, Diagnosis, Finding
from torchctl.ranks import few_ranks, fold_ranks

_MOST_RANKS = 16
_MOST_NAMED = 4  # maximum number of processes or dumps to name


class Files(NamedTuple):
    """Where the evidence was read from.

    Attributes:
        dumps: the file with the newest dump, by rank.
        stacks: the paths that the operator gave, if they contain stacks.
        archives: archive files, which were not read.
    """

    dumps: Mapping[int, str]
    stacks: Sequence[str]
    archives: Sequence[str] = ()


def files_of(evidence: Evidence, paths: Sequence[str]) -> Files:
    """Return the files of evidence that was read from `paths`."""
    dumps: dict[int, str] = {}
    for info in evidence.trace.dumps:
        dumps.setdefault(info.rank, info.source)
    archives = [one.source for one in evidence.unread if one.reason.startswith(ARCHIVE)]
    return Files(dumps, paths if evidence.stacks or evidence.processes else (), archives)


def next_step(diagnosis: Diagnosis, places: Mapping[int, Place], files: Files | None) -> str:
    """Return what to do next, or "" if there is nothing to do.

    Args:
        diagnosis: what was found.
        places: host and process by rank.
        files: None if live workers were asked.
    """
    if diagnosis.healthy:
        return ""
    if not diagnosis.findings:
        return _to_find_out(diagnosis, places, files)
    first = diagnosis.findings[0]
    ranks = first.culprit_ranks or first.waiting_ranks
    if not ranks and not first.culprit_processes:
        return ""
    if first.kind in DEATHS and (line := _line_of(first)):
        return line
    if first.kind in DEATHS:
        return _of_lost(ranks, places, live=False) if ranks else ""
    if first.kind == "rank_lost":
        return _of_lost(first.culprit_ranks, places, files is None and not diagnosis.failed.keys().isdisjoint(ranks))
    if files is None:
        return f"`torchctl traceback --ranks {fold_ranks(ranks[:_MOST_RANKS])} --all-threads`"
    return _of_files(ranks, files)


def _to_find_out(diagnosis: Diagnosis, places: Mapping[int, Place], files: Files | None) -> str:
    """Return what might provide the missing evidence."""
    silent = [rank for rank in diagnosis.missing if rank in diagnosis.failed]
    if silent:
        return _of_lost(silent, places, files is None)
    if diagnosis.missing:
        several = "s" * (len(diagnosis.missing) > 1)
        whose = f"rank{several} {few_ranks(diagnosis.missing)}"
        if files is not None:
            return f"include the dumps and stacks of {whose}"
        return f"include the worker{several} of {whose}, unless the log says that it ended"
    if files is None and diagnosis.store_keys:
        keys = " ".join(shlex.quote(f"*{key}*") for key in diagnosis.store_keys[:_MOST_NAMED])
        return f"`torchctl store keys --store MASTER_ADDR:MASTER_PORT {keys}` lists what is set"
    if files is None:
        return "`torchctl traceback --samples 3` shows which ranks move"
    if files.archives and not files.dumps:
        return f"unpack {shlex.join(files.archives[:_MOST_NAMED])} and diagnose the folder"
    if files.stacks:
        return f"`torchctl traceback {shlex.join(files.stacks)}`; a second set of files shows which ranks move"
    return "take dumps and stacks of all ranks"


def _line_of(first: Finding) -> str:
    """Return where a log shows what a job died of, and the user's line; "" if the evidence is not a log."""
    source, _, rest = (first.evidence[0] if first.evidence else "").partition(":")
    number = rest.partition(":")[0]
    if not number.isdigit():
        return ""
    at = first.location
    return f"{source} around line {number}" + ("" if at is None else f", and {at.file}:{at.line}")


def _of_lost(ranks: Sequence[int], places: Mapping[int, Place], live: bool) -> str:
    """Return where to look for lost ranks, by process and host if they are known."""
    steps = []
    for rank in ranks[:_MOST_NAMED]:
        place = places.get(rank, Place())
        if place.pid is not None and live:
            steps.append(f"`torchctl doctor {place.pid}`" + (f" on {place.host}" if place.host else ""))
        elif place.host:
            steps.append(f"the log of rank {rank}, {place.host}" + (f", pid {place.pid}" if place.pid else ""))
    if len(steps) == len(ranks):
        return "; ".join(steps)
    shown = fold_ranks(ranks[:_MOST_RANKS])
    where = f"the log and the host of rank{'s' * (len(ranks) > 1)} {shown}"
    look = [*steps, f"`torchctl ps --ranks {shown}`"] if live else steps
    return "; ".join([*look, where])


def _of_files(ranks: Sequence[int], files: Files) -> str:
    """Return the commands that show the files of the given ranks."""
    dumps = [files.dumps[rank] for rank in ranks if rank in files.dumps][:_MOST_NAMED]
    words = {"nccl-trace": dumps, "traceback": files.stacks}
    commands = [f"`torchctl {name} {shlex.join(paths)}`" for name, paths in words.items() if paths]
    return " and ".join(commands) or "take dumps and stacks of all ranks"
