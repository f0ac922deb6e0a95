"""The worker's side of its sentinel: start it, hand over, answer its probes, say goodbye.

How this works: all of it runs on the accepting thread of the server, in whose `poll` the companion takes part, so
there is neither a thread nor a wake-up more. The thread starts the sentinel detached (see `detach`) with the name of a
private socket (abstract, made up by the kernel) on its command line, and goes on accepting. When the sentinel
connects and is found to be a process of our own user, it gets the listening sockets and the shared page over that
connection, which stays as the link between both: a probe comes on it, and its end is noticed on both sides. A
sentinel that dies is not started again: whoever killed it may have had a reason, and a loop of starts would hurt.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from torchctl import __version__, protocol, runtimedir
from torchctl.server import dumps, identity, step
from torchctl.server.handlers.pyspy import find_pyspy
from torchctl.server.sentinel import handover
from torchctl.server.sentinel.page import Page, make
from torchctl.silence.samples import start_ticks

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sentinel", "__main__.py")
_CREDENTIALS = struct.Struct("3i")
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61
_GOODBYE_S = 0.3

_live: set[Companion] = set()


class Shared(NamedTuple):
    """A listening socket that the sentinel gets, and whether it is TCP."""

    socket: socket.socket
    is_tcp: bool


class Companion:
    """One server's sentinel.

    Args:
        listeners: the server's listening sockets.
        address: as the operator would write it.
        token: that TCP clients must present.
        native: path of torch's own server in this process, "" for none.

    Attributes:
        pid: the sentinel's, None before it has come and after it has gone.
    """

    def __init__(self, listeners: Sequence[Shared], address: str, token: str | None, native: str) -> None:
        self.pid: int | None = None
        self._listeners = listeners
        self._address = address
        self._token = token
        self._native = native
        self._door: socket.socket | None = None  # where the sentinel knocks, until it has
        self._link: socket.socket | None = None
        self._page: Page | None = None
        self._dump: dumps.Dump | None = dumps.prepare()
        self._started = False
        self._page_descriptor = -1

    def join(self, poll: select.poll) -> None:
        """Take part in the accepting thread's poll; start the sentinel the first time."""
        if not self._started:
            self._started = True
            with contextlib.suppress(Exception):  # no process, no memory: the server goes on without
                self._start()
        if self._page is not None:
            self._page.set_thread(threading.get_native_id())
        for one in (self._door, self._link):
            if one is not None:
                poll.register(one, select.POLLIN)
        if self._dump is not None:
            self._dump.unblock()

    def attend(self, poll: select.poll, descriptor: int) -> None:
        """Go on with what a descriptor of ours is ready for; others are passed over."""
        if self._link is not None and descriptor == self._link.fileno():
            self._answer(poll, self._link)
        elif self._door is not None and descriptor == self._door.fileno():
            poll.unregister(self._door)
            with contextlib.suppress(Exception):
                self._hand_over(self._door)
            self._close_door()
            if self._link is not None:
                poll.register(self._link, select.POLLIN)

    def stop(self, note: bytes = b"bye") -> None:
        """Say goodbye and wait a moment until the sentinel has let go of the sockets."""
        self._close_door()
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(OSError):
                link.send(note, socket.MSG_NOSIGNAL)
                link.settimeout(_GOODBYE_S)
                while link.recv(256):
                    pass  # probes; the end of the link is the end of the sentinel
            link.close()
            self._collect()
        self.pid = None
        _live.discard(self)
        self._forget()

    def release(self) -> None:
        """In a forked child: close what was inherited."""
        for one in (self._door, self._link):
            if one is not None:
                one.close()
        if self._dump is not None:
            self._dump.close()
        step.page = None

    def _start(self) -> None:
        from torchctl.server import detach

        ticks = start_ticks(os.getpid())
        if ticks is None or not sys.executable:
            return
        self._page, page = _shared_page()
        self._page_descriptor = page
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind("")  # the kernel makes up an abstract name
        self._door.listen(1)
        self._door.setblocking(False)
        name = self._door.getsockname()[1:].decode("ascii")
        detach.start([sys.executable, "-I", "-S", _SCRIPT, name, str(os.getpid()), str(ticks)])

    def _hand_over(self, door: socket.socket) -> None:
        link, _ = door.accept()
        pid, uid, _ = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid():
            link.close()
            return
        _allow_reading_by(pid)
        where = identity.place()
        description = handover.Handover(
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            address=self._address,
            listeners=[one.is_tcp for one in self._listeners],
            token=self._token,
            rank=where.rank,
            world_size=where.world_size,
            job_id=identity.job_id(),
            host=socket.gethostname(),
            runtime_dir=os.path.abspath(runtimedir.runtime_dir()),
            version=__version__,
            pyspy=find_pyspy(),
            dump_signal=None if self._dump is None else self._dump.signal,
            native=self._native,
        )
        descriptors = [one.socket.fileno() for one in self._listeners]
        descriptors.append(self._page_descriptor)
        if self._dump is not None:
            descriptors.append(self._dump.descriptor)
        try:
            handover.send(link, description, descriptors)
        except OSError:
            link.close()
            return
        link.setblocking(False)
        self._link, self.pid = link, pid
        _live.add(self)
        step.page = self._page

    def _answer(self, poll: select.poll, link: socket.socket) -> None:
        """Answer a probe: the page first, which takes no second turn with the interpreter lock."""
        try:
            data = link.recv(64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            poll.unregister(link)
            link.close()
            self._link = None
            self._collect()
            self.pid = None
            return
        if self._page is not None and data[1:].isdigit():
            self._page.answer(int(data[1:]))
            where = identity.place()
            self._page.set_place(where.rank, where.world_size)
            with contextlib.suppress(OSError):
                link.send(data, socket.MSG_NOSIGNAL)  # so that the sentinel hands back at once

    def _collect(self) -> None:
        """Where we are the parent of whoever has none (process 1 of a container), leave no dead child behind."""
        deadline = time.monotonic() + _GOODBYE_S
        with contextlib.suppress(OSError):
            while self.pid and os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
            with contextlib.suppress(OSError):
                os.close(self._page_descriptor)

    def _forget(self) -> None:
        if step.page is self._page:
            step.page = None
        self._page = None
        if self._dump is not None:
            self._dump.close()
            self._dump = None


def wanted() -> bool:
    """Whether the environment allows a sentinel."""
    return os.environ.get(protocol.SENTINEL_VARIABLE, "1") != "0"


def _shared_page() -> tuple[Page, int]:
    descriptor = make()
    return Page(descriptor), descriptor


def _allow_reading_by(pid: int) -> None:
    """Where Yama forbids processes to read each other (1), let our sentinel and what it starts read us."""
    try:
        with open(_YAMA, encoding="ascii") as file:
            if file.read().strip() != "1":
                return
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)
    except (OSError, AttributeError):
        pass


def sentinel_pid() -> int | None:
    """Return the pid of this process's sentinel, None while it has none."""
    return next((one.pid for one in list(_live) if one.pid is not None), None)
