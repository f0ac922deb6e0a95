"""Why a worker on this host is silent: what /proc and last words show beyond its socket.

How this works: a socket shows only that nothing listens, or that something listens and does not answer. The kernel
knows more: it reports the listener's pid with the connection. Sampling that process twice distinguishes a stopped
process from one whose interpreter lock is held; a last word says how a dead process died.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Sequence

from torchctl.errors import (
    BusyError,
    DeadlineError,
    NoSuchSocketError,
    RefusedError,
    RuntimeDirError,
    WorkerError,
)
from torchctl.process.lastword import LastWord, Raised, read_all
from torchctl.process.memory import ControlGroup, group_of
from torchctl.process.peer import peer_of
from torchctl.process.reasons import reasons
from torchctl.process.samples import Sample, read, sample, start_ticks
from torchctl.process.sockets import socket_inodes
from torchctl.process.started import age_s
from torchctl.protocol import runtimedir, socketnames
from torchctl.stacks.codepaths import nearest_frame
from torchctl.workers.endpoint import Endpoint

_BETWEEN_LOOKS_S = 0.3  # a thread waiting for the lock wakes 60 times in this time
_MAX_PROCESSES = 64  # how many silent processes to sample; beyond that, the first ones are enough
_MAX_HINTS = 3  # how many silent processes a hint names
STANDS_STILL = ("", "Z", "X", "T", "t")  # the kernel's state letters; "" for a process that is gone
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


def explain(failures: Sequence[tuple[Endpoint, WorkerError]]) -> None:
    """Add to each error the cause found in this host's /proc or in a last word."""
    explain_deaths(failures)
    explain_silence(failures)


def explain_deaths(failures: Sequence[tuple[Endpoint, WorkerError]]) -> None:
    """Add how the worker died to the error of each worker whose socket no longer has a listener."""
    dead = [(one, error) for one, error in failures if isinstance(error, RefusedError | NoSuchSocketError)]
    if dead:
        words = last_words()
        for endpoint, error in dead:
            cause = _of_death(endpoint, words)
            if cause:
                error.because(cause)
                error.hint = "check the job's log"


def explain_silence(failures: Sequence[tuple[Endpoint, WorkerError]]) -> None:
    """Add what the process is doing, from two samples, to the error of each worker that does not answer."""
    silent = [(one, error) for one, error in failures if is_late(error)]
    known = [(pid, error) for one, error in silent[:_MAX_PROCESSES] if (pid := pid_of(one)) is not None]
    looks = {pid: (sample(pid), group_of(pid)) for pid, _ in known}
    if looks:
        time.sleep(_BETWEEN_LOOKS_S)
    guarded = sentinels() if known else {}
    for pid, late in known:
        late.why, late.blocked = _of_silence(pid, *looks[pid])
        words = f"its process {pid}{':' if late.blocked else ' is'} {late.why}"
        late.because(words + ("" if pid in guarded else "; it has no sentinel"))
    blocked = _doctor(pid for pid, late in known if late.blocked)
    running = _doctor(pid for pid, late in known if not late.blocked)
    for _, late in known:
        if late.blocked:
            late.hint = f"{blocked} shows everything known about the process and what blocks it"
        elif type(late) is DeadlineError:
            late.hint = f"the process is running and may be slow: try a longer --timeout, then {running}"


def _doctor(pids: Iterable[int]) -> str:
    """Return the `torchctl doctor` commands for a few processes."""
    few = list(dict.fromkeys(pids))
    return " or ".join(f"`torchctl doctor {pid}`" for pid in (few if len(few) <= _MAX_HINTS else ["PID"]))


def is_late(error: WorkerError | None) -> bool:
    """Return whether a worker has not answered in time: it may be slow, or it may never answer."""
    return isinstance(error, DeadlineError | BusyError)


def last_words(*, orderly: bool = False) -> list[LastWord]:
    """Return the last words in this user's runtime folder, or none if the folder cannot be trusted.

    Args:
        orderly: also those of processes whose program ended with exit code 0.
    """
    with contextlib.suppress(RuntimeDirError, OSError):
        found = read_all(runtimedir.runtime_dir())
        return [word for word in found if (orderly or not word.orderly) and not _lives(word)]
    return []


def _lives(word: LastWord) -> bool:
    """Return whether a process that left a last word still runs, for example because its exception was caught."""
    age = None if _is_gone(word.pid) else age_s(start_ticks(word.pid))
    return age is not None and word.host == os.uname().nodename and time.time() - age < word.died


def death(word: LastWord) -> str:
    """Return text such as ``died 14:02:11.123, SIGKILL, step 1203``."""
    parts = [f"{'ended' if word.orderly else 'died'} {_clock(word.died)}", cause_of(word)]
    if word.step is not None:
        parts.append(f"step {word.step}")
    if word.note:
        parts.append(word.note)
    return ", ".join(parts)


def cause_of(word: LastWord) -> str:
    """Return what ended a process: "SIGKILL", or "uncaught ValueError: no rows left (/home/ada/train.py:41)"."""
    cause = word.cause or "cause unknown"
    message = " ".join(word.message.split())
    if message:
        cause += f": {message}"
    frame = raised_at(word)
    return cause if frame is None else f"{cause} ({frame.file}:{frame.line})"


def raised_at(word: LastWord) -> Raised | None:
    """Return where an exception left the user's own code, else a library's; None if that is not known."""
    at = nearest_frame([frame.file for frame in word.frames])
    return None if at is None else word.frames[at]


def _clock(seconds: float) -> str:
    """Return a time of day in milliseconds, with the date if it is not today."""
    when, now = time.localtime(seconds), time.localtime()
    clock = time.strftime("%H:%M:%S" if when[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", when)
    return f"{clock}.{int(seconds * 1000) % 1000:03}"


def _of_death(endpoint: Endpoint, words: Sequence[LastWord]) -> str:
    pid = _named_pid(endpoint)
    for word in words:
        if (endpoint.path and word.endpoint == endpoint.path) or (pid is not None and word.pid == pid):
            return death(word)
    return f"its process {pid} has ended" if pid is not None and _is_gone(pid) else ""


def has_ended(endpoint: Endpoint, error: WorkerError) -> bool:
    """Return whether a worker's process is gone but its socket is not: an orderly exit removes the socket."""
    if isinstance(error, RefusedError):
        return True
    pid = _named_pid(endpoint)
    return pid is not None and os.path.exists(endpoint.path) and _is_gone(pid)


def _is_gone(pid: int) -> bool:
    return sample(pid, []).state in ("", "Z", "X")


def _of_silence(pid: int, before: Sample, group: ControlGroup) -> tuple[str, bool]:
    """Return what a process is doing, and whether something keeps it from answering."""
    after = sample(pid)
    found = reasons(before, after, 0, (group, group_of(pid)))
    if found:
        return "; ".join(one.text for one in found), True
    main = after.threads.get(pid)
    doing = "" if main is None else f" (state {main.state}{f', {main.wait}' if main.wait else ''})"
    return f"running{doing}", False


def pid_of(endpoint: Endpoint) -> int | None:
    """Return the process on this host that listens at an address, or None if it cannot be determined."""
    if endpoint.path:
        return listener_of(endpoint.path) or _named_pid(endpoint)
    if endpoint.port and _is_here(endpoint.host):
        return _tcp_listener(endpoint.port)
    return None


def running_listener(endpoint: Endpoint) -> int | None:
    """Return the process on this host that listens at an address according to the kernel and is not stopped."""
    pid = listener(endpoint)
    return None if pid is None or sample(pid, []).state in STANDS_STILL else pid


def listener(endpoint: Endpoint) -> int | None:
    """Return the process on this host that listens at an address according to the kernel."""
    return listener_of(endpoint.path) if endpoint.path else pid_of(endpoint)


def still_runs(endpoint: Endpoint, error: WorkerError | None) -> bool:
    """Return whether a worker timed out while its process on this host still runs: slow or held up, but not lost."""
    return is_late(error) and not endpoint.node and running_listener(endpoint) is not None


def stands_still(endpoint: Endpoint) -> bool:
    """Return whether a worker's process on this host has exited or is stopped, so that it will never answer."""
    pid = pid_of(endpoint)
    return pid is not None and sample(pid, []).state in STANDS_STILL


def listener_of(path: str) -> int | None:
    """Return the pid that listens at a socket file, which the kernel keeps from `listen`, or None if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
            return peer_of(probe).pid or None
        except (OSError, ValueError):
            return None


def _named_pid(endpoint: Endpoint) -> int | None:
    """Return the pid in a socket's name; a bare number counts as a pid only in a runtime folder."""
    if endpoint.node:
        return None
    name = socketnames.parse(endpoint.path)
    in_runtime_dir = endpoint.found or os.path.dirname(endpoint.path) == runtimedir.runtime_dir()
    return name.pid if name.rank is not None or in_runtime_dir else None


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1", os.uname().nodename) or host.startswith("127.")


def _tcp_listener(port: int) -> int | None:
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in read(f"/proc/net/{name}").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENING and fields[1].endswith(f":{port:04X}"):
                inodes.add(fields[9])
    if not inodes:
        return None
    holders = [int(name) for name in os.listdir("/proc") if name.isdigit() and inodes & socket_inodes(int(name))]
    # A sentinel shares its worker's socket; the worker started first.
    return min((pid for pid in holders if not sentinel_of(pid)), default=None)


def sentinels() -> dict[int, int]:
    """Return the sentinels on this host: the worker's pid to the sentinel's pid."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return {worker: pid for pid in pids if (worker := sentinel_of(pid)) is not None}


def sentinel_of(pid: int) -> int | None:
    """Return the pid of the worker that a sentinel process guards, or None if the process is not a sentinel."""
    words = read(f"/proc/{pid}/cmdline").split("\0")
    if len(words) > 6 and words[3].endswith("/server/sentinel/__main__.py") and words[5].isdigit():
        return int(words[5])
    return None
