"""Gets flight-recorder dumps from a job without a server: requested through torch's FIFOs, picked up from its files.

How this works. With TORCH_NCCL_DEBUG_INFO_PIPE_FILE set, NCCL's monitor thread in every rank reads that rank's FIFO. A
line written to it makes the thread write its dump to a file, seconds later. The FIFO is opened without blocking: no one
reads it while the process tears down. The file is taken once it is newer than our line and has stopped growing.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp (DumpPipe, HeartbeatMonitor) and FlightRecorder.cpp, 2.13.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchctl.errors import DumpError, NoWorkersError
from torchctl.files import write_file
from torchctl.flightrec.decoding.decode import read_file
from torchctl.text import duration

DEFAULT_TIMEOUT_S = 30.0  # the monitor thread polls its pipe about once a second, and a first dump takes another
PREFIX_VARIABLES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_POLL_S = 0.1
_RANK = re.compile(r"(\d{1,6})\.pipe\Z")


@dataclass(frozen=True, slots=True)
class PipeAnswer:
    """The result of asking one rank: the file its dump was saved to, or why there is none."""

    rank: int
    path: str | None
    reason: str = ""


def collect_from_pipes(
    stem: str, folder: str, *, prefixes: Sequence[str] = (), timeout_s: float = DEFAULT_TIMEOUT_S
) -> list[PipeAnswer]:
    """Ask every rank that has a FIFO for its dump and save the dumps in a folder; one answer per rank, by rank.

    Args:
        stem: path of the FIFOs without rank and ``.pipe``, as in TORCH_NCCL_DEBUG_INFO_PIPE_FILE.
        folder: where to save the dumps, as ``nccl_trace_rank_N``; created if missing.
        prefixes: where torch writes dumps, without the rank; torch's defaults if empty.
        timeout_s: how long to wait for all files.

    Raises:
        NoWorkersError: no FIFO has that stem.
        TorchctlError: the folder cannot be written.
    """
    pipes = find_pipes(stem)
    if not pipes:
        raise NoWorkersError(
            f"there is no pipe {stem}RANK.pipe",
            hint="the job creates them when TORCH_NCCL_DEBUG_INFO_PIPE_FILE is set to that stem",
        )
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise DumpError(f"cannot create {folder}: {error.strerror}") from error
    places = list(prefixes) or dump_prefixes(os.environ)
    before = {rank: _marks(places, rank) for rank in pipes}
    answers: dict[int, PipeAnswer] = {}
    for rank, path in pipes.items():
        reason = ask(path)
        if reason:
            answers[rank] = PipeAnswer(rank, None, reason)
    asked = [rank for rank in pipes if rank not in answers]
    for rank, found in _wait_for_files(asked, places, before, timeout_s).items():
        if found is None:
            answers[rank] = PipeAnswer(rank, None, f"wrote no dump within {duration(timeout_s)}")
            continue
        target = os.path.join(folder, f"nccl_trace_rank_{rank}")
        try:
            write_file(target, read_file(found))
            answers[rank] = PipeAnswer(rank, target)
        except DumpError as error:
            answers[rank] = PipeAnswer(rank, None, error.message)
    return [answers[rank] for rank in sorted(answers)]


def find_pipes(stem: str) -> dict[int, str]:
    """Return the FIFO of each rank; ignore anything else with such a name."""
    found = {}
    for path in glob.glob(f"{glob.escape(stem)}*.pipe"):
        match = _RANK.fullmatch(path[len(stem) :])
        try:
            if match is not None and stat.S_ISFIFO(os.stat(path).st_mode):
                found[int(match[1])] = path
        except OSError:
            continue
    return found


def dump_prefixes(environment: Mapping[str, str]) -> list[str]:
    """Return where torch writes its dumps, without the rank: from the environment, and by default."""
    named = [environment[name] for name in PREFIX_VARIABLES if environment.get(name)]
    if named:
        return named
    cache = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", "~"), ".cache")
    return [os.path.join(cache, "torch", "comm_lib_trace_rank_"), "/tmp/nccl_trace_rank_"]


def ask(path: str) -> str:
    """Write one line to a FIFO; return "" or why that failed."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return "nothing reads its pipe: the process has ended, or is shutting down"
        return f"cannot open its pipe: {error.strerror}"
    try:
        os.write(descriptor, b"1\n")
    except OSError as error:
        return f"cannot write to its pipe: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""


_Mark = tuple[int, int, int]  # inode, time, size: any change means a new file


def _marks(prefixes: Iterable[str], rank: int) -> dict[str, _Mark]:
    marks = {}
    for prefix in prefixes:
        try:
            status = os.stat(f"{prefix}{rank}")
        except OSError:
            continue
        marks[f"{prefix}{rank}"] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return marks


def _wait_for_files(
    ranks: Sequence[int], prefixes: Sequence[str], before: Mapping[int, dict[str, _Mark]], timeout_s: float
) -> dict[int, str | None]:
    """Return the new file of each rank once it has stopped growing, or None if none appeared."""
    deadline = time.monotonic() + timeout_s
    found: dict[int, str | None] = {}
    last: dict[int, dict[str, _Mark]] = {}
    pause = threading.Event()
    while len(found) < len(ranks) and time.monotonic() < deadline:
        for rank in ranks:
            if rank in found:
                continue
            now = _marks(prefixes, rank)
            for path, mark in now.items():
                fresh = mark != before[rank].get(path)
                if fresh and mark[2] and last.get(rank, {}).get(path) == mark:
                    found[rank] = path
            last[rank] = now
        pause.wait(_POLL_S)
    return {rank: found.get(rank) for rank in ranks}
