"""Why a worker gave nothing: what it said, and what the kernel says of its process where it is one of this host."""

from __future__ import annotations

import os
import re

from torchctl.errors import DeadlineError, DegradedError, RefusedError, WorkerError
from torchctl.workers.endpoint import Endpoint

_PID_IN_NAME = re.compile(r"-(\d{1,9})\.sock\Z")
_DEAD = ("", "Z", "X")  # letters of /proc/PID/stat


def reason_of(endpoint: Endpoint, error: WorkerError) -> str:
    """Return in words why a worker gave nothing."""
    pid = _pid_of(endpoint)
    if pid is None or isinstance(error, DegradedError):
        return error.detail
    state = _process_state(pid)
    if state in _DEAD:
        return f"its process {pid} has ended without closing its socket"
    if state in "tT":
        return f"its process {pid} is stopped (state {state})"
    if isinstance(error, DeadlineError):
        return f"its process {pid} runs (state {state}) and {error.detail}"
    return error.detail


def has_ended(endpoint: Endpoint, error: WorkerError) -> bool:
    """Whether a worker's process is gone and its socket is not: a clean end takes the socket away."""
    if isinstance(error, RefusedError):
        return True
    pid = _pid_of(endpoint)
    return pid is not None and os.path.exists(endpoint.path) and _process_state(pid) in _DEAD


def _pid_of(endpoint: Endpoint) -> int | None:
    match = None if endpoint.node else _PID_IN_NAME.search(endpoint.path)
    return int(match[1]) if match is not None else None


def _process_state(pid: int) -> str:
    """Return the kernel's letter for a process of this host, "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
