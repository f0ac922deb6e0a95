"""Jobs of real ranks on gloo that need no import of torch each: forked by a nursery, one per test process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.demo.job import descendants, sockets, wait_until


@functools.cache
def nursery() -> subprocess.Popen[str]:
    """Return this process's nursery, which ends when its stdin closes: at the end of the tests."""
    settings = {"OMP_NUM_THREADS": "1", "RES_OPTIONS": "attempts:0"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.live.nursery"],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def forked_job(
    script: Path,
    ranks: int,
    runtime_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    imports: Sequence[str] = (),
    arrived: Callable[[], bool] | None = None,
) -> Iterator[int]:
    """Run SCRIPT on `ranks` ranks under ``torchctl.server`` for the block's length; give the leader's pid.

    The modules of `imports` are imported before the ranks are forked.

    The block begins when `arrived` says so, by default when every rank has its socket in `runtime_dir` (a rank
    whose program has ended has none); at its end all are killed. What a test shows of torchrun itself needs
    `tests.demo.job.torchrun_job`.
    """
    with tempfile.NamedTemporaryFile(prefix="tc-errors-") as errors:
        settings = {**os.environ, "TORCHCTL_RUNTIME_DIR": str(runtime_dir), **(environment or {})}
        job = {"script": str(script), "ranks": ranks, "environment": settings, "errors": errors.name}
        job["imports"] = list(imports)
        stdin, stdout = nursery().stdin, nursery().stdout
        assert stdin is not None and stdout is not None
        print(json.dumps(job), file=stdin, flush=True)
        leader = int(stdout.readline())
        try:
            wait_until(arrived or sockets(runtime_dir, ranks), lambda: _ended(leader, errors.name))
            yield leader
        finally:
            _end(leader)


def _ended(leader: int, errors: str) -> str | None:
    """Return why the job cannot start any more, if it cannot."""
    if os.path.exists(f"/proc/{leader}"):
        written = Path(errors).read_text(errors="replace")
        return f"a rank failed: {written}" if "Error" in written else None
    return f"its leader ended: {Path(errors).read_text(errors='replace')}"


def _end(leader: int) -> None:
    for pid in [*descendants(leader), leader]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
