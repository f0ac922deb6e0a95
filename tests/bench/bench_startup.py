"""`torchctl ping` as a whole process, beside the imports that it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import in_turns, report, timed
from torchctl.server import WorkerServer

ROUNDS = 41


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tc-") as folder, WorkerServer(f"{folder}/s") as server:
        program = str(Path(sys.executable).with_name("torchctl"))
        commands = {
            "import click, urllib3": [sys.executable, "-c", "import click, urllib3"],
            "torchctl ping": [program, "ping", "--socket", server.address],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        environment = {**os.environ, "TORCHCTL_RUNTIME_DIR": folder}

        def run(command: list[str]) -> float:
            return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment))

        sides = {name: (lambda command=command: run(command)) for name, command in commands.items()}
        report(f"a whole process ({ROUNDS} rounds)", in_turns(sides, ROUNDS))


if __name__ == "__main__":
    main()
