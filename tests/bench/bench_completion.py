"""What one Tab in bash takes: handler names of a live worker, and with a worker beside it that never answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import in_turns, report, timed
from tests.listeners import listening, silent
from torchctl.server import WorkerServer

ROUNDS = 21


def main() -> None:
    program = str(Path(sys.executable).with_name("torchctl"))
    words = {"COMP_WORDS": "torchctl call dump_", "COMP_CWORD": "2", "_TORCHCTL_COMPLETE": "bash_complete"}

    def tab(runtime_dir: str) -> float:
        environment = {**os.environ, **words, "TORCHCTL_RUNTIME_DIR": runtime_dir}
        return timed(lambda: subprocess.run([program], check=True, stdout=subprocess.DEVNULL, env=environment))

    with (
        tempfile.TemporaryDirectory(prefix="tc-") as one,
        tempfile.TemporaryDirectory(prefix="tc-") as two,
        WorkerServer(f"{one}/a.sock"),
        WorkerServer(f"{two}/a.sock"),
        listening(f"{two}/b.sock", silent),
    ):
        sides = {"a live worker": lambda: tab(one), "a live and a silent one": lambda: tab(two)}
        report(f"handler names for one Tab ({ROUNDS} rounds)", in_turns(sides, ROUNDS))


if __name__ == "__main__":
    main()
