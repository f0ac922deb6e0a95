"""A child process that decodes untrusted bytes under limits on memory, CPU and time.

How this works. The child is a fresh `python -I -S` (9 ms), not a fork (1 ms): a fork of a process with
threads may deadlock, and all of the parent's memory would count against its limit. It talks over two
pipes (see wire.py) that the parent reads and writes without blocking, with one deadline. Whatever goes
wrong, the child is killed by its own process id and reaped before the call returns. One guard serves one
request at a time, from any thread; threads that decode concurrently need one guard each.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from types import TracebackType

from torchctl.errors import DumpError
from torchctl.flightrec.decoding import wire
from torchctl.text import duration

MAX_REPLY_BYTES = 512 << 20  # four times the largest input; the parent must hold it
_CHUNK_BYTES = 1 << 20
# For glibc: keep the memory of one dump for the next instead of returning it to the kernel, which saves 5% of the time.
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
# The package's folder goes last on the path, so nothing beside it can shadow the standard library.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from torchctl.flightrec.decoding.child import main; main()"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources that decoding one dump may use.

    Args:
        input_bytes: size of the dump; 2000 entries with stacks take 0.34 MB as pickle, 0.94 MB as JSON.
        memory_bytes: the child's whole address space; unpickled data takes 10 to 20 times its size.
        cpu_s: CPU seconds per request; 100 MB unpickle in about 3.
        wall_s: seconds from the request to the complete answer, including starting the child.
    """

    input_bytes: int = 128 << 20
    memory_bytes: int = 1 << 30
    cpu_s: int = 10
    wall_s: float = 20.0


class Guard:
    """Decodes one blob at a time in a limited child, which is started on first use.

    It is a context manager; `close` may be called twice. After a refusal the next request gets a fresh child.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the child now, so that it boots while the caller does something else.

        Raises:
            DumpError: the child process cannot be started.
        """
        with self._lock:
            self._start()

    def close(self) -> None:
        """Kill the child."""
        with self._lock:
            self._end()

    def ask(self, kind: bytes, data: bytes, source: str) -> bytes:
        """Return the payload of the child's answer to one request.

        Args:
            kind: the kind of request; see wire.py.
            data: the untrusted bytes.
            source: the file or endpoint they come from, named in every error.

        Raises:
            DumpError: the bytes are refused, or exceed the limits.
        """
        if len(data) > self.limits.input_bytes:
            raise too_large(source, len(data), self.limits)
        with self._lock:
            done = False
            try:
                answer, payload = self._exchange(kind, data, source)
                done = answer == wire.DONE
            finally:
                if not done:
                    self._end()
        if not done:
            raise DumpError(f"{source} {payload.decode('utf-8', 'replace')}")
        return payload

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            command = [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT]
            command += [str(self.limits.memory_bytes), str(self.limits.cpu_s)]
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    cwd="/",
                    env=os.environ | _ENVIRONMENT,
                )
            except OSError as error:
                raise DumpError(f"cannot start the decoding process: {error.strerror}") from error
            assert child.stdin is not None and child.stdout is not None
            for pipe in (child.stdin, child.stdout):
                os.set_blocking(pipe.fileno(), False)
                with suppress(OSError):  # the system may not allow more than the default 64 KiB
                    fcntl(pipe.fileno(), F_SETPIPE_SZ, _CHUNK_BYTES)
            self._child = child
        return self._child

    def _end(self) -> int:
        """Kill and reap the child; return its return code, as `subprocess` defines it."""
        child, self._child = self._child, None
        if child is None:
            return 0
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        child.stdout.close()
        child.kill()
        return child.wait()

    def _exchange(self, kind: bytes, data: bytes, source: str) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + self.limits.wall_s
        child = self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            _send(child.stdin.fileno(), wire.HEADER.pack(kind, len(data)), deadline)
            _send(child.stdin.fileno(), data, deadline)
            answer, size = wire.HEADER.unpack(_receive(child.stdout.fileno(), wire.HEADER.size, deadline))
            if size > MAX_REPLY_BYTES:
                raise DumpError(f"{source} takes more than {MAX_REPLY_BYTES >> 20} MiB once decoded")
            return answer, _receive(child.stdout.fileno(), size, deadline)
        except TimeoutError:
            raise DumpError(
                f"{source} was not decoded within {duration(self.limits.wall_s)}",
                hint="the machine is overloaded or the file is hostile; try again on an idle machine",
            ) from None
        except (BrokenPipeError, EOFError):
            raise self._death(child, source) from None

    def _death(self, child: subprocess.Popen[bytes], source: str) -> DumpError:
        """Return the error for a child that exited by itself."""
        try:
            status = child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = 0
        if status == -signal.SIGXCPU:
            return DumpError(f"{source} needs more than {duration(self.limits.cpu_s)} of CPU time to decode")
        if status < 0:
            return DumpError(f"{source} could not be decoded: the decoding process died from signal {-status}")
        return DumpError(
            f"{source} could not be decoded: the decoding process ended with status {status}",
            hint=f"check that `{sys.executable} -I -S -c pass` runs",
        )


def too_large(source: str, size: int, limits: Limits) -> DumpError:
    """Return the error for a dump over the size limit."""
    return DumpError(
        f"{source} has {size} bytes; torchctl decodes at most {limits.input_bytes >> 20} MiB",
        hint="take a dump with fewer entries (TORCH_FR_BUFFER_SIZE) or without stack traces",
    )


def _send(descriptor: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLOUT, deadline)
        try:
            view = view[os.write(descriptor, view[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            continue


def _receive(descriptor: int, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait(descriptor, select.POLLIN, deadline)
        try:
            chunk = os.read(descriptor, min(size - len(data), _CHUNK_BYTES))
        except BlockingIOError:
            continue
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until the pipe is ready or its other end is closed; raise TimeoutError at the deadline."""
    poll = select.poll()
    poll.register(descriptor, event)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if poll.poll(left * 1000):
            return
