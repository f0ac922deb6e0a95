"""A folder that `torchctl collect` has filled: its manifest, and which of its files a command reads."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torchctl.errors import TorchctlError

MANIFEST = "collect.json"
SCHEMA = "torchctl.collect/1"
_MAX_BYTES = 1 << 30


def read_manifest(folder: str) -> dict[str, Any] | None:
    """Return the manifest of a folder, None where there is none.

    Raises:
        TorchctlError: `collect.json` is there and is something else.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        if document["schema"] != SCHEMA or not all(map(_is_entry, document["workers"])):
            raise ValueError
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TorchctlError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise TorchctlError(f"{path} is not what `torchctl collect` writes", hint="choose another folder") from None
    assert isinstance(document, dict)
    return document


def former_files(paths: Iterable[str]) -> tuple[set[str], list[str]]:
    """Return which files beside `paths` are of a process that another has replaced, and a sentence on each process.

    A job that was restarted between two runs of `torchctl collect` leaves two processes for a rank in the folder. The
    one that started last is the present one; where no start is known, the one that was found last.

    Raises:
        TorchctlError: a folder holds one rank of several jobs, so that nothing in it can be compared.
    """
    former: set[str] = set()
    notes: list[str] = []
    for folder in sorted({os.path.dirname(path) for path in paths}):
        try:
            manifest = read_manifest(folder)
        except TorchctlError as error:
            notes.append(error.message)
            continue
        by_rank: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for worker in manifest["workers"] if manifest else []:
            if worker["rank"] is not None:
                by_rank[worker["rank"]].append(worker)
        for rank, workers in by_rank.items():
            for worker, note in _former_of(folder, rank, workers):
                former.update(os.path.join(folder, name) for name in worker["files"].values())
                notes.append(note)
    return former, notes


def _former_of(folder: str, rank: int, workers: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield what is not the present process of a rank, and a sentence about it."""
    kept = [worker for worker in workers if worker["files"]]
    jobs = sorted({str(worker["job_id"]) for worker in kept if worker.get("job_id") is not None})
    if len(jobs) > 1:
        raise TorchctlError(
            f"{folder} holds rank {rank} of several jobs: {', '.join(jobs)}",
            hint="collect each into a folder of its own with --job, or move the files of one elsewhere",
        )
    if not kept:
        return
    present = max(enumerate(kept), key=lambda pair: (_started(pair[1]), pair[0]))[1]
    for worker in workers:
        if worker is present:
            continue
        if worker["files"]:
            names = ", ".join(sorted(set(worker["files"].values())))
            yield worker, f"rank {rank}: {names} left aside: {_words(present)} has taken the place of {_words(worker)}"
        elif worker["failures"]:
            reason = next(iter(worker["failures"].values()))
            yield (
                worker,
                f"rank {rank}: {worker['endpoint']} {reason}; what is known of the rank is of {_words(present)}",
            )


def _started(worker: dict[str, Any]) -> float:
    start = worker.get("start_time")
    return float(start) if isinstance(start, (int, float)) else 0.0


def _words(worker: dict[str, Any]) -> str:
    return f"process {worker['pid']}" if worker["pid"] is not None else f"the process at {worker['endpoint']}"


def _is_entry(worker: dict[str, Any]) -> bool:
    """Whether a manifest's worker has the form that its readers rely on; a file is always one of the same folder."""
    texts = [worker["endpoint"], *worker["files"].values(), *worker["failures"].values()]
    numbers = [worker[name] for name in ("rank", "pid", "world_size")]
    return (
        all(isinstance(text, str) for text in texts)
        and all(number is None or (isinstance(number, int) and 0 <= number < 1 << 32) for number in numbers)
        and not any("/" in name or "\0" in name for name in worker["files"].values())
    )
