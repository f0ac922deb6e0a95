"""`make demo`: a real 4-rank job of which one rank is stuck, and what torchctl says of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.demo.job import torchrun_job
from tests.demo.train import STUCK_RANK, STUCK_STEP
from torchctl.errors import EXIT_FINDING, EXIT_OK

RANKS = 4
HANG_TIMEOUT_S = 90.0
# The commands, and the exit codes that they must have.
SHOWN: tuple[tuple[list[str], int], ...] = (
    (["diagnose"], EXIT_FINDING),
    (["ps"], EXIT_OK),
    (["ping"], EXIT_OK),
    (["traceback"], EXIT_OK),
    (["traceback", "--ranks", str(STUCK_RANK)], EXIT_OK),
    (["nccl-trace", "--ranks", "0", "--last", "3"], EXIT_OK),
)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="tc-"))
    try:
        return demonstrate(folder / "run")
    finally:
        shutil.rmtree(folder)


def demonstrate(runtime_dir: Path) -> int:
    say("starting: torchrun --nproc-per-node 4 -m torchctl.server tests/demo/train.py")
    with torchrun_job(Path(__file__).with_name("train.py"), RANKS, runtime_dir):
        os.environ["TORCHCTL_RUNTIME_DIR"] = str(runtime_dir)
        wait_for_hang()
        for arguments, expected in SHOWN:
            say(f"$ torchctl {' '.join(arguments)}")
            code = subprocess.run(torchctl(arguments), timeout=60, check=False).returncode
            if code != expected:
                say(f"torchctl {arguments[0]} ended with {code}")
                return 1
    say("the job was ended; every line above came from its live workers")
    return 0


def wait_for_hang() -> None:
    """Wait until every rank has reached the step and all but the stuck one wait in its collective."""
    deadline = time.monotonic() + HANG_TIMEOUT_S
    waiting: set[int] = set()
    while waiting != set(range(RANKS)) - {STUCK_RANK}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the job did not hang within {HANG_TIMEOUT_S:g} s; ranks {waiting} wait")
        time.sleep(0.1)
        steps = [worker["step"] for worker in ask("ps").get("workers", [])]
        if steps == [STUCK_STEP] * RANKS:
            dumps = ask("nccl-trace", "--no-stacktraces").get("dumps", [])
            waiting = {dump["rank"] for dump in dumps if dump["entries_active"]}


def ask(*arguments: str) -> dict[str, Any]:
    """Return a command's JSON; empty while the job is still starting."""
    result = subprocess.run(torchctl([*arguments, "--json"]), capture_output=True, text=True, timeout=60, check=False)
    document = json.loads(result.stdout) if result.stdout else {}
    assert isinstance(document, dict)
    return document


def torchctl(arguments: list[str]) -> list[str]:
    """Return the command line of the torchctl of this environment."""
    return [sys.executable, "-m", "torchctl", *arguments]


def say(line: str) -> None:
    """Print one line, at once, so that it stands before a child's output."""
    print(f"\n{line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
