"""Workers that all fall silent at once, each in its own way, and what their sentinels say."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.control_groups import frozen_group, memory_group
from tests.folders import short_folder
from tests.http_client import Reply, post, request
from tests.processes import Process, python
from tests.sentinels import HOLD_UNTIL_TOLD, IDLE, degraded, eventually, held, stop, worker

_HOLD = "print('holding', flush=True)\n"
_MIB = 1 << 20
_COMPUTING = "sum(range(10 ** 12))\n"
# The parent of a vfork is in D until the child goes on; here with the interpreter lock.
_VFORK = (
    "libc = ctypes.PyDLL(None)\n"
    "import mmap\n"
    "size = 1 << 16\n"
    "stack = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    "top = (ctypes.addressof((ctypes.c_char * size).from_buffer(stack)) + size) & ~63\n"
    "libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]\n"
    + _HOLD
    + "libc.clone(ctypes.cast(libc.sleep, ctypes.c_void_p), top, 0x4100 | signal.SIGCHLD, 120)\n"
)
# With the lock: the others can never go on, and the process is a zombie with threads.
_MAIN_THREAD_ENDS = "ctypes.PyDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
_MAY_BE_TRACED = "ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)\n"  # PR_SET_PTRACER: by anybody
# PTRACE_SEIZE and PTRACE_INTERRUPT: a stop without a SIGSTOP, which ends with the tracer.
_TRACER = (
    "import ctypes, sys\n"
    "trace = ctypes.CDLL(None).ptrace\n"
    "assert trace(0x4206, {pid}, 0, 0) == 0 and trace(0x4207, {pid}, 0, 0) == 0\n"
    "print('traces', flush=True)\nsys.stdin.readline()\n"
)
_FILL = f"sys.stdin.readline()\nfilled = bytearray(b'x') * int({64 * _MIB} * 0.97)\n"

CODE = {
    "asleep": "s.report_step(5)\n" + _HOLD + HOLD_UNTIL_TOLD + IDLE,
    "computing": "s.report_step(5)\n" + _HOLD + _COMPUTING,
    "stopped": "def here():\n    sys.stdin.readline()\nhere()\n",
    "uninterruptible": _VFORK,
    "zombie": _HOLD + _MAIN_THREAD_ENDS,
    "traced": _MAY_BE_TRACED + _HOLD + HOLD_UNTIL_TOLD + IDLE,
    "frozen": IDLE,
    "memory": _FILL + _HOLD + HOLD_UNTIL_TOLD + IDLE,
    "tcp": "tcp = s.WorkerServer('127.0.0.1', 0, read_only=True)\nprint(tcp.port, flush=True)\n" + IDLE,
    "healthy": IDLE,
}
TOKEN = "t" * 20


@dataclass
class Silent:
    """One of them.

    Attributes:
        asked: when the first request was sent, in seconds since the epoch.
        reply: what its sentinel answered to a ping.
        address: on TCP, where it has one.
        tracer: the process that traces it.
    """

    path: Path
    process: Process
    sentinel: int
    asked: float = 0.0
    reply: Reply | None = None
    address: str = ""
    tracer: Process | None = None

    @property
    def words(self) -> str:
        assert self.reply is not None
        return self.reply.body.decode()


@contextlib.contextmanager
def silent_workers() -> Iterator[dict[str, Silent]]:
    """Yield them by the way in which they are silent; those that this machine cannot make are missing."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        environment = {"RANK": "2", "TORCHCTL_TOKEN": TOKEN, "TORCHCTL_RUNTIME_DIR": str(folder / "run")}
        groups = {"frozen": stack.enter_context(frozen_group()), "memory": stack.enter_context(memory_group(64 * _MIB))}
        names = [name for name in CODE if groups.get(name, True)]
        pool = stack.enter_context(ThreadPoolExecutor(len(names) + 1))

        def start(name: str) -> Silent:
            process, sentinel = stack.enter_context(worker(folder / name, CODE[name], environment=environment))
            return Silent(folder / name, process, sentinel)

        found = {name: start(name) for name in names}
        stack.callback(_end_children, found)
        for name, group in groups.items():
            if group is not None:
                group.enter(found[name].process.pid)
        for name, one in found.items():
            _silence(name, one)
        found["traced"].tracer = stack.enter_context(python(_TRACER.format(pid=found["traced"].process.pid)))
        found["traced"].tracer.wait_for("traces")
        if groups["frozen"] is not None:
            stack.enter_context(groups["frozen"].frozen())
        healthy = found.pop("healthy")
        asked: list[Future[None]] = [pool.submit(_ask, one) for one in found.values()]
        asked.append(pool.submit(_ask_for_a_token, found["tcp"].address))
        while not all(future.done() for future in asked):
            assert post(str(healthy.path), "ping").body == b"pong"
            time.sleep(0.01)
        for future in asked:
            future.result()
        yield {**found, "healthy": healthy}


def _silence(name: str, one: Silent) -> None:
    if name in ("stopped", "tcp"):
        if name == "tcp":
            one.address = f"127.0.0.1:{one.process.line()}"
        stop(one.process.pid)
    elif name == "memory":
        one.process.tell("fill it")
    if name in ("asleep", "traced", "memory"):
        held(one.process)
    elif name in ("computing", "uninterruptible", "zombie"):
        one.process.wait_for("holding")


def _ask_for_a_token(address: str) -> None:
    eventually(lambda: request(address, "POST", "/handler/ping").status == 401)


def _ask(one: Silent) -> None:
    one.asked = time.time()
    one.reply = degraded(one.path)


def _end_children(found: dict[str, Silent]) -> None:
    """End the children of vforks: their parents cannot end before."""
    for one in found.values():
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
