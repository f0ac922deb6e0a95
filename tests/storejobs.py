"""Real processes around a store: its host, and `torchctl` itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tests.stores import DEADLINE_S

HOST_CODE = """
import datetime, signal, sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, None, True, datetime.timedelta(seconds=60), wait_for_workers=False)
print(store.port, flush=True)
signal.pause()
"""


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a child: no name looked up, one thread, nothing of ours preset."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TORCHCTL_", "TORCH_CPP"))}
    return {**env, "RES_OPTIONS": "attempts:0", "OMP_NUM_THREADS": "1", "COLUMNS": "80", **changes}


def _heed_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Child:
    """A process of ours, its streams, and a deadline on everything."""

    def __init__(self, *command: str, **env: str) -> None:
        self.read_ahead: dict[IO[bytes], bytes] = {}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=environment(**env),
            # A test run in the background of a shell ignores Ctrl-C, and hands that on.
            preexec_fn=_heed_interrupt,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def line(self) -> str:
        """Return the next line on stdout."""
        return self._line(self.process.stdout)

    def error_line(self) -> str:
        """Return the next line on stderr."""
        return self._line(self.process.stderr)

    def _line(self, stream: IO[bytes] | None) -> str:
        assert stream is not None
        end = time.monotonic() + DEADLINE_S
        read = self.read_ahead.setdefault(stream, b"")
        while b"\n" not in read:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            assert ready, "no line in time"
            chunk = os.read(stream.fileno(), 65536)
            assert chunk, "the stream ended"
            read += chunk
        line, _, self.read_ahead[stream] = read.partition(b"\n")
        return line.decode()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, and what is left on stdout and stderr."""
        streams = (self.process.stdout, self.process.stderr)
        rest = self.process.communicate(timeout=DEADLINE_S)
        out, err = (
            (self.read_ahead.get(stream, b"") + data).decode()
            for stream, data in zip(streams, rest, strict=True)
            if stream is not None
        )
        return self.process.returncode, out, err

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # torchrun's workers too; the group is ours alone
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait()


def torchctl(*args: str) -> Child:
    """Start the command line."""
    return Child(sys.executable, "-m", "torchctl", *args)


@contextmanager
def store_host() -> Iterator[tuple[Child, str]]:
    """A process that hosts a TCPStore, and its HOST:PORT."""
    with Child(sys.executable, "-c", HOST_CODE, TORCH_CPP_LOG_LEVEL="FATAL") as child:
        yield child, f"127.0.0.1:{child.line()}"


def until_counter(store: Any, key: str, value: int, *, within_s: float = DEADLINE_S) -> float:
    """Look at a counter until it has `value`; return the seconds that took."""
    start = time.monotonic()
    while not (store.check([key]) and store.add(key, 0) == value):
        assert time.monotonic() - start < within_s, f"{key} did not become {value}"
        time.sleep(0.01)  # a poll, not a synchronisation: the loop ends by what it sees
    return time.monotonic() - start
