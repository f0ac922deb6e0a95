"""Evidence from files: dumps, stacks in whatever form, and what a live run has saved beside them."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torchctl.diagnosis.evidence import Evidence, Place
from torchctl.errors import DumpError
from torchctl.flightrec.decoding.decode import rank_from_name, read_file
from torchctl.flightrec.table.folder import Found, find_files, rank_by_pattern
from torchctl.flightrec.table.loading import load_files
from torchctl.manifest import former_files
from torchctl.stacks.reader import parse_stacks
from torchctl.stacks.stack import Stacks

WORKERS_FILE = "diagnose_info.json"
WORKERS_SCHEMA = "torchctl.diagnose-info/1"
_LAST_NUMBER = re.compile(r"(\d{1,6})(?:\.\w+)?\Z")
_HEADLINE = re.compile(rb'# torchctl \{[^\n]*"time":\s?"(\d{4}-\d\d-\d\dT[0-9:.]{8,15}Z)"')
_LOOKS_LIKE_STACKS = (b"most recent call first", b"torchctl.stacks/1", b'"frames"', b"Process ")


def read_evidence(
    paths: Iterable[str | os.PathLike[str]], *, rank_from: str | None = None, jobs: int | None = None
) -> Evidence:
    """Return what the files under `paths` tell of a job.

    Args:
        paths: folders, or single files.
        rank_from: regular expression for the rank in a path; see `flightrec.load`.
        jobs: how many processes decode dumps at once.

    Raises:
        DumpError: a path does not exist, or the pattern is none.
        TorchctlError: a folder of `torchctl collect` holds one rank of several jobs.
    """
    dumps, others = find_files(paths)
    former, notes = former_files([*others, *(found.path for found in dumps)])
    stacks: dict[int, list[tuple[str, Stacks]]] = defaultdict(list)
    kept: list[Found] = []
    for found in dumps:
        if found.path in former:
            continue
        if found.path.lower().endswith(".txt"):
            others.append(found.path)
        elif os.path.basename(found.path) != WORKERS_FILE:
            kept.append(found)
    saved: dict[str, Any] = {}
    for path in [*others, *(found.path for found in dumps if os.path.basename(found.path) == WORKERS_FILE)]:
        if os.path.basename(path) == WORKERS_FILE:
            saved = _saved(path)
            continue
        rank = _rank_of(path, rank_from)
        parsed = None if path in former else _stacks_in(path)
        if rank is not None and parsed is not None:
            stacks[rank].append((path, parsed))
    trace = load_files(kept, rank_from=rank_from, jobs=jobs)
    evidence = Evidence(trace, {rank: _newest(rank, found, notes) for rank, found in stacks.items()})
    trace.notes[:0] = notes
    if saved:
        restore(evidence, saved)
    return evidence


def described(evidence: Evidence) -> dict[str, Any]:
    """Return what of live evidence is in no dump and no stack, for `restore`."""
    return {
        "schema": WORKERS_SCHEMA,
        "world_size": evidence.world_size,
        "failed": {str(rank): reason for rank, reason in evidence.failed.items()},
        "left": sorted(evidence.left),
        "moved": None if evidence.moved is None else sorted(evidence.moved),
        "places": {str(rank): [place.host, place.pid] for rank, place in evidence.places.items()},
    }


def restore(evidence: Evidence, saved: dict[str, Any]) -> None:
    """Give evidence from files what the live run knew besides; fields of another form are left out."""
    ranks = {int(rank): value for rank, value in _table(saved, "failed").items()}
    evidence.failed.update({rank: str(reason) for rank, reason in ranks.items()})
    for rank, place in _table(saved, "places").items():
        host, pid = place if isinstance(place, list) and len(place) == 2 else (None, None)
        evidence.places[int(rank)] = Place(
            host if isinstance(host, str) else None, pid if isinstance(pid, int) else None
        )
    size, moved, left = saved.get("world_size"), saved.get("moved"), saved.get("left")
    evidence.world_size = size if isinstance(size, int) and 0 < size < 10_000_000 else None
    evidence.moved = frozenset(rank for rank in moved if isinstance(rank, int)) if isinstance(moved, list) else None
    evidence.left = frozenset(rank for rank in left if isinstance(rank, int)) if isinstance(left, list) else frozenset()
    evidence.live = True


def _table(saved: dict[str, Any], key: str) -> dict[str, Any]:
    table = saved.get(key)
    return {rank: value for rank, value in table.items() if rank.isdigit()} if isinstance(table, dict) else {}


def _saved(path: str) -> dict[str, Any]:
    try:
        document = json.loads(read_file(path))
    except (DumpError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and document.get("schema") == WORKERS_SCHEMA else {}


def _rank_of(path: str, rank_from: str | None) -> int | None:
    if rank_from is not None:
        rank = rank_by_pattern(path, re.compile(rank_from))
        if rank is not None:
            return rank
    rank = rank_from_name(path)
    if rank is None and (match := _LAST_NUMBER.search(os.path.basename(path))):
        rank = int(match[1])  # `stacks_3.txt`, `pyspy-3.json`: names that hold one number for one rank
    return rank


def _newest(rank: int, found: list[tuple[str, Stacks]], notes: list[str]) -> Stacks:
    """Return one of the stacks of a rank, the newest where all of them say when they were taken; note the others."""
    times = [_taken(path) for path, _ in found] if len(found) > 1 else []
    at = times.index(max(times)) if all(times) and times else 0
    for other, (path, _) in enumerate(found):
        if other != at:
            notes.append(f"rank {rank}: the stacks in {path} are left aside for those in {found[at][0]}")
    return found[at][1]


def _taken(path: str) -> str:
    """Return when a file's stacks were taken, as `torchctl collect` writes it, "" where it does not say."""
    match = _HEADLINE.match(read_file(path)[:10_000])
    return match[1].decode() if match else ""


def _stacks_in(path: str) -> Stacks | None:
    """Return the stacks in a file, None where it holds none."""
    try:
        data = read_file(path)
    except DumpError:
        return None
    if not any(mark in data[:1_000_000] for mark in _LOOKS_LIKE_STACKS):
        return None
    try:
        return parse_stacks(data)
    except ValueError:
        return None
