"""What the server costs the training: step time without it, with it idle, and polled ten times a second.

All three in one process, in turns: two processes differ by more than a server costs.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_server import Client
from tests.bench.figures import in_turns, report
from tests.processes import running

ROUNDS, SECONDS = 21, 1.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tc-") as folder:
        address = f"{folder}/s"
        with running([sys.executable, "-m", "tests.bench.peer", "none", address]) as process:
            process.line()

            def steps(command: str, polled: bool = False) -> float:
                stop = threading.Event()
                poller = threading.Thread(target=poll, args=(address, stop))
                process.tell(f"{command} {SECONDS}")
                if polled:
                    poller.start()
                time_ms = float(process.line())
                stop.set()
                if polled:
                    poller.join()
                return time_ms

            sides = {
                "no server": lambda: steps("train"),
                "server idle": lambda: steps("serve-and-train"),
                "polled 10 times a second": lambda: steps("serve-and-train", polled=True),
            }
            report(f"a training step ({ROUNDS} rounds of {SECONDS:g} s)", in_turns(sides, ROUNDS))


def poll(address: str, stop: threading.Event) -> None:
    """Ask for all stacks every 100 ms."""
    while not stop.wait(0.1):
        with contextlib.suppress(OSError):  # it starts and stops meanwhile
            Client(address, keep=False).post("dump_traceback")


if __name__ == "__main__":
    main()
