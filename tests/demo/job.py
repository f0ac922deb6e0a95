"""Start a real torchrun job whose ranks run a script under `torchctl.server`, and end it again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 240.0  # importing torch in several ranks at once, on a small machine


@contextlib.contextmanager
def torchrun_job(
    script: Path,
    ranks: int,
    runtime_dir: Path,
    *,
    module: bool = True,
    options: Sequence[str] = ("--standalone",),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``torchrun --nproc-per-node RANKS [-m torchctl.server] SCRIPT`` on this host for the block's length.

    The block begins when every rank has its socket in `runtime_dir`; at its end the agent and all its
    ranks are killed, the stuck ones included.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", str(ranks), *(["-m", "torchctl.server"] if module else []), str(script)]
    settings = {"TORCHCTL_RUNTIME_DIR": str(runtime_dir), "OMP_NUM_THREADS": "1", "RES_OPTIONS": "attempts:0"}
    job = subprocess.Popen(
        command,
        env={**os.environ, **settings, **(environment or {})},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(sockets(runtime_dir, ranks), lambda: _ended(job))
        yield job
    finally:
        _end_all(job)


def sockets(folder: Path, count: int) -> Callable[[], bool]:
    """Return a function that says whether `count` sockets are in the folder."""
    return lambda: folder.is_dir() and sum(name.endswith(".sock") for name in os.listdir(folder)) >= count


def wait_until(arrived: Callable[[], bool], ended: Callable[[], str | None]) -> None:
    """Wait until a job has arrived where it should be; `ended` returns why it no longer can, or None."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not arrived():
        if reason := ended():
            raise RuntimeError(f"the job did not start: {reason}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the job had not started after {START_TIMEOUT_S:g} s")
        time.sleep(0.05)


def _ended(job: subprocess.Popen[bytes]) -> str | None:
    if job.poll() is None:
        return None
    assert job.stderr is not None
    return f"it ended with {job.returncode}: {job.stderr.read().decode()}"


def _end_all(job: subprocess.Popen[bytes]) -> None:
    """Kill the agent and its ranks; torchrun gives each rank a session of its own, so they are found by parent."""
    for pid in [*descendants(job.pid), job.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    job.wait(30)
    assert job.stderr is not None
    job.stderr.close()


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's children, and of theirs."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found
