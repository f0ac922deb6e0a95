"""The worker's stacks, read from outside while its interpreter lock is held or it is stopped.

How this works: we first try py-spy, which only reads the process's memory and neither stops nor signals it. If py-spy
is missing or not permitted, a signal makes the worker's interpreter write its stacks. That can do harm, so we send it
only if all of this is true: two samples a second apart have shown the server's thread waiting for the lock the whole
time; that thread does not block the signal and the process catches it (SigBlk, SigCgt); pid and start time are still
the worker's. The signal goes to the server's own thread with `tgkill`, never to the process or the main thread, so it
cuts no sleep in C short; and the stacks go to a memfd, which cannot fill up as a pipe can.

Source: CPython's Modules/faulthandler.c; proc(5).
"""

from __future__ import annotations

import os
import select
import signal
import time

from torchctl.process.pyspy import TIMEOUT_S, complaint, dump_command
from torchctl.process.samples import start_ticks, status_fields
from torchctl.protocol import stacktext
from torchctl.server.sentinel.state import State

_DUMP_TIMEOUT_S = 3.0
_DUMP_LOOK_S = 0.05
_MAX_BYTES = 16 << 20
_SYS_TGKILL = {"x86_64": 234, "aarch64": 131}
_LEFT_OUT = (
    "\nnote: the interpreter prints only the newest 100 threads, and the main thread is older than those:\n"
    "note: it is missing here; install py-spy in the job's environment to see it\n"
)
_DEFAULTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Stacks:
    """A task for the loop: call `step` when `descriptor` is readable and at `wake`, until `answer` is set.

    Attributes:
        answer: status, body and content type.
        wake: `time.monotonic` seconds.
    """

    events = select.POLLIN

    def __init__(self, state: State, dump: int | None) -> None:
        self.answer: tuple[int, bytes, str] | None = None
        self.descriptor = -1
        self.wake = time.monotonic() + TIMEOUT_S
        self._state = state
        self._dump = dump
        self._child = 0
        self._data = bytearray()
        self._size = -1  # the dump's, at the last check
        self._deadline = self.wake
        self._why = "py-spy is not installed in the job's environment"
        program = state.worker.pyspy
        if program is not None:
            self._start(program)
        if not self._child:
            self._signal()

    def step(self) -> None:
        """Make progress without blocking."""
        if self.answer is not None:
            return
        if self._child:
            self._read_pyspy()
        else:
            self._read_dump()

    def close(self) -> None:
        """Kill py-spy if it is still running."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            self._reap()

    def _start(self, program: str) -> None:
        read_end, write_end = os.pipe()
        try:
            self._child = os.posix_spawn(
                program,
                dump_command(program, self._state.worker.pid),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write_end, 1),
                    (os.POSIX_SPAWN_DUP2, write_end, 2),
                ],
                setsigdef=_DEFAULTED,
            )
        except OSError as error:
            self._why = f"py-spy cannot be started: {error.strerror}"
            os.close(read_end)
            return
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        self.descriptor = read_end

    def _read_pyspy(self) -> None:
        ended = time.monotonic() >= self.wake
        while not ended and len(self._data) < _MAX_BYTES:
            try:
                chunk = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            self._data += chunk
            if not chunk:
                break
        else:
            os.kill(self._child, signal.SIGKILL)
        status = self._reap()
        if status == 0 and not ended:
            self.answer = (200, bytes(self._data), "text/plain; charset=utf-8")
            return
        text = complaint(self._data.decode("utf-8", "replace"))
        self._why = f"py-spy returned no stacks: {text or 'it did not finish in time'}"
        self._signal()

    def _reap(self) -> int:
        os.close(self.descriptor)
        self.descriptor = -1
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        return status

    def _signal(self) -> None:
        """Send the signal, or answer why not."""
        refusal = self._refusal()
        if refusal or self._dump is None:
            words = f"no stacks from outside: {self._why}; {refusal}\n{self._state.sentence()}\n"
            self.answer = (503, words.encode("utf-8", "replace"), "text/plain; charset=utf-8")
            return
        os.ftruncate(self._dump, 0)
        os.lseek(self._dump, 0, os.SEEK_SET)  # the worker shares the offset
        worker = self._state.worker
        assert worker.dump_signal is not None
        _tgkill(worker.pid, self._state.words().thread, worker.dump_signal)
        self._deadline = time.monotonic() + _DUMP_TIMEOUT_S
        self.wake = time.monotonic() + _DUMP_LOOK_S

    def _refusal(self) -> str:
        """Return why the signal must not be sent, or "" if it may."""
        worker, thread = self._state.worker, self._state.words().thread
        if worker.dump_signal is None or self._dump is None:
            return "and the worker has no signal set up for it"
        degraded = self._state.degraded
        if degraded is None or not degraded.lock_held:
            return "and no signal was sent: the process is not waiting for the interpreter lock"
        if start_ticks(worker.pid) != worker.start_ticks or thread == worker.pid:
            return "and the process has been replaced"
        fields = status_fields(f"/proc/{worker.pid}/task/{thread}/status")
        bit = 1 << (worker.dump_signal - 1)
        if not int(fields.get("SigCgt", "0"), 16) & bit or int(fields.get("SigBlk", "0"), 16) & bit:
            return "and no signal was sent: the process no longer catches it"
        return ""

    def _read_dump(self) -> None:
        assert self._dump is not None
        size = os.fstat(self._dump).st_size
        if size and size == self._size:
            text = os.pread(self._dump, _MAX_BYTES, 0)
            if text.rstrip().endswith(f"\n{stacktext.THREADS_CUT}".encode()):
                text += _LEFT_OUT.encode()
            self.answer = (200, text, "text/plain; charset=utf-8")
        elif time.monotonic() >= self._deadline:
            words = f"no stacks from outside: {self._why}; and the interpreter wrote none when it was signaled\n"
            self.answer = (503, words.encode("utf-8", "replace"), "text/plain; charset=utf-8")
        self._size = size
        self.wake = time.monotonic() + _DUMP_LOOK_S


def _tgkill(pid: int, tid: int, number: int) -> None:
    """Send a signal to one thread; it is not an error if the thread has ended."""
    import ctypes  # late: it takes a megabyte, and only this needs it

    libc = ctypes.CDLL(None)
    try:
        libc.tgkill(pid, tid, number)
    except AttributeError:  # glibc before 2.30
        machine = _SYS_TGKILL.get(os.uname().machine)
        if machine is not None:
            libc.syscall(machine, pid, tid, number)
