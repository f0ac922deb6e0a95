"""Real processes for tests: started, waited for with a deadline, ended by the test."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

DEADLINE_S = 60.0


class Process:
    """A child with piped stdin, stdout and stderr, which it shares with the test line by line."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self.popen.pid
        self._buffer = b""

    def line(self, timeout_s: float = DEADLINE_S) -> str:
        """Return the next line of stdout."""
        assert self.popen.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.popen.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "no line within the deadline"
            chunk = os.read(self.popen.stdout.fileno(), 65536)
            assert chunk, f"the process ended: {self.finish()}"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def wait_for(self, word: str) -> None:
        """Read lines until one says `word`."""
        while self.line() != word:
            pass

    def tell(self, text: str) -> None:
        """Send one line."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode() + b"\n")
        self.popen.stdin.flush()

    def finish(self, timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
        """Wait for the end; return exit code, rest of stdout, stderr."""
        out, err = self.popen.communicate(timeout=timeout_s)
        return self.popen.returncode, (self._buffer + out).decode(), err.decode()

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def running(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run a process for the length of the block."""
    process = Process(arguments, environment)
    try:
        yield process
    finally:
        process.end()


def python(code: str, environment: Mapping[str, str] | None = None) -> contextlib.AbstractContextManager[Process]:
    """Run Python code in a process."""
    return running([sys.executable, "-c", code], environment)
