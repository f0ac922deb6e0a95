"""The worker's side of its sentinel: start it, hand over, answer its probes, say goodbye.

How this works: all of it runs on the accepting thread of the server, in whose `poll` the companion takes part, so
there is neither a thread nor a wake-up more. The thread starts the sentinel detached (see `detach`) with the name of a
private socket (abstract, made up by the kernel) on its command line, and goes on accepting. When the sentinel
connects and is found to be a process of our own user, it gets the listening sockets and the shared page over that
connection, which stays as the link between both: a probe comes on it, and its end is noticed on both sides. A
sentinel that dies is not started again: the one who killed it may have had a reason, and a loop of starts would hurt.

One sentinel serves all servers of a process, each over a link of its own: a second server does not start one, but has
its private socket's name told to the one that is there, over another server's link. So it stays until the last
server has said goodbye, and no server depends on another one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from torchctl import __version__, protocol
from torchctl.process.peer import peer_of
from torchctl.process.pyspy import find_pyspy
from torchctl.process.samples import start_ticks
from torchctl.protocol import runtimedir
from torchctl.server import registry
from torchctl.server.guest import identity, ownership, stackdump, step
from torchctl.server.http.gate import Gate
from torchctl.server.sentinel import handover
from torchctl.server.sentinel.page import Page, make

_SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sentinel", "__main__.py")
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61
_GOODBYE_S = 0.3

_sharing = threading.RLock()  # held for what follows; a signal handler may come in between, and shut down too
_live: set[Companion] = set()  # that have a link to the sentinel
_waiting: list[Companion] = []  # for a sentinel that has been started for the first of them, and has not come yet


class Shared(NamedTuple):
    """A listening socket that the sentinel gets, and who may ask there."""

    socket: socket.socket
    gate: Gate
    is_tcp: bool


class Companion:
    """One server's link to the sentinel of this process.

    Args:
        listeners: the server's listening sockets; those that speak TLS are left out.
        address: as the operator would write it.
        native: path of torch's own server in this process, "" for none.

    Attributes:
        pid: the sentinel's, None before it has come and after it has gone.
        address: of the server; None where its sockets are not shared.
    """

    def __init__(self, listeners: Sequence[Shared], address: str, native: str) -> None:
        self.pid: int | None = None
        self.address = address if listeners else None
        self._listeners = listeners
        self._address = address
        self._native = native
        self._door: socket.socket | None = None  # where the sentinel knocks, until it has
        self._link: socket.socket | None = None
        self._page: Page | None = None
        self._dump: stackdump.Dump | None = stackdump.prepare()
        self._started = False
        self._stopped = False
        self._page_descriptor = -1  # until the sentinel has it
        self._page_mark: ownership.Mark | None = None
        self._page_second = -1  # by which the mapping holds it
        self._own = ownership.Sockets()

    def join(self, poll: select.poll) -> None:
        """Take part in the accepting thread's poll; start the sentinel the first time."""
        if self._stopped:
            return
        self._own.give_up_lost()
        if not self._started:
            self._started = True
            with contextlib.suppress(Exception):  # no process, no memory: the server goes on without
                self._start()
        if self._page is not None:
            self._page.set_thread(threading.get_native_id())
        for one in (self._door, self._link):
            if one is not None and one.fileno() >= 0:
                poll.register(one, select.POLLIN)
        if self._dump is not None:
            self._dump.unblock()

    def attend(self, poll: select.poll, descriptor: int) -> None:
        """Go on with what a descriptor of ours is ready for; others are passed over."""
        if not self._own.give_up_lost():
            poll.unregister(descriptor)  # the trainer's now
        elif self._link is not None and descriptor == self._link.fileno():
            self._answer(poll, self._link)
        elif self._door is not None and descriptor == self._door.fileno():
            try:
                self._hand_over(self._door)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except Exception:  # no descriptor is left, say: the server goes on without
                poll.unregister(self._door)
                self._close_door()
                return
            if self._link is not None:
                poll.unregister(self._door)
                self._close_door()
                poll.register(self._link, select.POLLIN)

    def stop(self) -> None:
        """Say goodbye and wait a moment until the sentinel has let go of the sockets."""
        self._own.give_up_lost()
        self._close_door()
        with _sharing:  # from here on no connection is announced to the sentinel over our link
            self._stopped = True
            link, self._link = self._link, None
            _live.discard(self)
        self._give_up_waiting()
        if link is not None:
            with contextlib.suppress(OSError):
                link.send(handover.GOODBYE, socket.MSG_NOSIGNAL)
                link.settimeout(_GOODBYE_S)
                while link.recv(256):
                    pass  # probes; the end of the link is the end of the sentinel
            self._own.give_up_lost()
            link.close()
            if not _live:
                self._collect()
        self.pid = None
        self._forget()

    def release(self) -> None:
        """In a forked child: close what was inherited."""
        self._own.give_up_lost()
        self._close_door()
        if self._link is not None:
            self._link.close()
        if self._dump is not None:
            self._dump.close()
        _forget_all()
        self._let_go_of_page()

    def _start(self) -> None:
        if start_ticks(os.getpid()) is None or not sys.executable or getattr(sys, "frozen", False):
            return  # a frozen program's executable is the program: that would start the training once more
        self._page_descriptor = make()
        self._page_mark = ownership.mark(self._page_descriptor)
        self._page_second = os.dup(self._page_descriptor)
        os.close(self._page_second)  # the lowest that is free, which the mapping takes now
        self._page = Page(self._page_descriptor)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind("")  # the kernel makes up an abstract name
        self._door.listen(1)
        self._door.setblocking(False)
        self._own = ownership.Sockets(self._door)
        with _sharing:
            if any(one._invite(self) for one in _live):
                return
            _waiting.append(self)
            if len(_waiting) > 1:
                return  # told as soon as the first one has its link
        self._launch()

    def _launch(self) -> None:
        from torchctl.server.guest import detach

        ticks = start_ticks(os.getpid())
        if ticks is not None and self._door is not None:
            detach.start([sys.executable, "-I", "-S", _SCRIPT, self._name(), str(os.getpid()), str(ticks)])

    def _name(self) -> str:
        return "" if self._door is None else str(self._door.getsockname()[1:].decode("ascii"))

    def _invite(self, other: Companion) -> bool:
        """Tell the sentinel of another server of this process; False when that fails."""
        if self._link is None or not self._own.give_up_lost():
            return False
        try:
            self._link.send(handover.JOIN + other._name().encode("ascii"), socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _give_up_waiting(self) -> None:
        """Stop waiting for a sentinel to come; the next one that waits starts its own."""
        with _sharing:
            was_first = bool(_waiting) and _waiting[0] is self
            if self in _waiting:
                _waiting.remove(self)
            following = _waiting[0] if was_first and _waiting else None
        if following is not None:
            with contextlib.suppress(Exception):
                following._launch()

    def _hand_over(self, door: socket.socket) -> None:
        link, _ = door.accept()
        pid, uid = peer_of(link)
        if uid != os.geteuid():
            link.close()  # another user's process has guessed the name: ours may still come
            return
        _allow_reading_by(pid)
        where = identity.place()
        description = handover.Handover(
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            address=self._address,
            listeners=[handover.rules_of(one.gate, one.is_tcp) for one in self._listeners],
            rank=where.rank,
            world_size=where.world_size,
            job_id=identity.job_id(),
            host=socket.gethostname(),
            runtime_dir=os.path.abspath(runtimedir.runtime_dir()),
            version=__version__,
            pyspy=find_pyspy(),
            dump_signal=None if self._dump is None else self._dump.signal,
            native=self._native,
            costly=registry.costly_names(),
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
        if step.last is not None and self._page is not None:
            self._page.report(*step.last)
        with _sharing:
            if self._stopped:  # while we were at it, by a thread that has not waited for ours
                link.send(handover.GOODBYE, socket.MSG_NOSIGNAL)
                link.close()
                return
            self._link, self.pid, self._own = link, pid, ownership.Sockets(link)
            _live.add(self)
            step.pages = tuple(one._page for one in _live if one._page is not None)
            if self in _waiting:
                _waiting.remove(self)
                for other in _waiting:
                    self._invite(other)
                _waiting.clear()

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
            with _sharing:
                self._link = None
                _live.discard(self)
            link.close()
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
        """Where we are the parent of orphans (process 1 of a container), leave no dead child behind."""
        deadline = time.monotonic() + _GOODBYE_S
        with contextlib.suppress(OSError):
            while self.pid and os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
            with contextlib.suppress(OSError):
                ownership.close(self._page_descriptor, self._page_mark)

    def _forget(self) -> None:
        step.pages = tuple(page for page in step.pages if page is not self._page)
        self._let_go_of_page()
        if self._dump is not None:
            self._dump.close()
            self._dump = None

    def _let_go_of_page(self) -> None:
        page, self._page = self._page, None
        if page is not None and not ownership.is_still(self._page_second, self._page_mark):
            ownership.keep_for_ever(page)  # its end would close a descriptor that is the trainer's now


def wanted() -> bool:
    """Whether the environment allows a sentinel."""
    return os.environ.get(protocol.SENTINEL_VARIABLE, "1") != "0"


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


def _forget_all() -> None:
    """In a forked child: it has no sentinel, and no thread of ours that may hold the lock."""
    global _sharing
    _sharing = threading.RLock()
    _live.clear()
    _waiting.clear()
    step.pages = ()


def sentinel_pid() -> int | None:
    """Return the pid of this process's sentinel, None while it has none."""
    return next((one.pid for one in list(_live) if one.pid is not None), None)


def sentinel_serves() -> list[str]:
    """Return the addresses at which the sentinel answers while this process cannot; none that speaks TLS."""
    return sorted(one.address for one in list(_live) if one.address is not None)
