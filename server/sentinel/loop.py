"""The sentinel's process: its loop over the servers of one worker, and its exit.

How this works: each worker has one sentinel, no matter how many servers it runs. Each server has a private link to the
sentinel, over which it hands over its sockets once. The name of the first server's door is on the command line; the
others arrive over an existing link. The sentinel exits when the worker ends (its pidfd shows that, however it died),
when the last server has said goodbye, or when a link closes without a goodbye, as after exec. It never touches a socket
file.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Sequence

from torchctl.process import lastword, memory
from torchctl.process.samples import start_ticks, stat_fields
from torchctl.server.sentinel.handover import GOODBYE, JOIN, receive
from torchctl.server.sentinel.watch import Watch

_LOOK_S = 1.0
_DEATH_TIMEOUT_S = 10.0  # between a link's closing and the process's end, on a busy machine
_STATUS_TIMEOUT_S = 2.0  # until its exit status can be read, if it can
_FLAGS = 6  # index of field 9 of /proc/PID/stat, counting from the third
_PF_EXITING = 0x4  # include/linux/sched.h


def main(arguments: Sequence[str]) -> None:
    """Watch the worker given by the arguments: private socket name, pid, start time in ticks."""
    name, pid, ticks = arguments[0], int(arguments[1]), int(arguments[2])
    _detach()
    try:
        pidfd: int | None = os.pidfd_open(pid)
    except OSError:
        pidfd = None  # a kernel before 5.3: rely on the link closing and on a check each second
    if start_ticks(pid) != ticks:
        return
    loop = Loop(pid, ticks, pidfd)
    loop.knock(name)
    loop.run()
    os._exit(0)  # skip the interpreter's cleanup: the worker's shutdown waits for our sockets to close


def _detach() -> None:
    """Leave the trainer's session, folder and descriptors; signals meant for the job must not reach us."""
    os.closerange(3, 1 << 20)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Loop:
    """The watches of one worker.

    Args:
        pid, ticks: the worker's.
        pidfd: the worker's, or None if the kernel has none.
    """

    def __init__(self, pid: int, ticks: int, pidfd: int | None) -> None:
        self._pid = pid
        self._ticks = ticks
        self._pidfd = pidfd
        self._poll = select.poll()
        self._watches: dict[int, Watch] = {}  # by their link's descriptor
        self._knocking: dict[int, socket.socket] = {}  # links with no handover yet
        self._first_kills = memory.group_of(pid).kills
        if pidfd is not None:
            self._poll.register(pidfd, select.POLLIN)

    def knock(self, name: str) -> None:
        """Connect to a server's private socket; the server hands over its sockets when it has time."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.setblocking(False)
        try:
            link.connect(f"\0{name}")
        except OSError:
            link.close()  # that server is already gone
            return
        self._poll.register(link, select.POLLIN)
        self._knocking[link.fileno()] = link

    def run(self) -> None:
        """Watch until the worker ends or its last server says goodbye."""
        next_look = time.monotonic() + _LOOK_S
        while self._watches or self._knocking:
            now = time.monotonic()
            if now >= next_look:
                next_look = max(next_look + _LOOK_S, now + _LOOK_S / 2)
                self._look()
            wake = min([next_look, *(one.desk.next_deadline() for one in self._watches.values())])
            for descriptor, _ in self._poll.poll(max(0.0, wake - time.monotonic()) * 1000):
                self._attend(descriptor)
            now = time.monotonic()
            for watch in self._watches.values():
                watch.desk.sweep(now)

    def _look(self) -> None:
        if self._pidfd is None and start_ticks(self._pid) != self._ticks:
            self._died()
            return
        for watch in self._watches.values():
            watch.look()

    def _attend(self, descriptor: int) -> None:
        if descriptor == self._pidfd:
            self._died()
        elif descriptor in self._knocking:
            self._enter(descriptor)
        elif descriptor in self._watches:
            self._listen(self._watches[descriptor])
        else:
            for watch in self._watches.values():
                watch.attend(descriptor)

    def _enter(self, descriptor: int) -> None:
        link = self._knocking[descriptor]
        try:
            handover, descriptors = receive(link)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            handover = None  # that server has been shut down
        del self._knocking[descriptor]
        self._poll.unregister(link)
        if handover is None:
            link.close()
            return
        self._watches[descriptor] = Watch(handover, descriptors, link, self._poll)

    def _listen(self, watch: Watch) -> None:
        try:
            data = watch.link.recv(256)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data == GOODBYE:
            del self._watches[watch.link.fileno()]
            watch.let_go()
        elif not data:
            self._lost()
        elif data.startswith(JOIN):
            self.knock(data[len(JOIN) :].decode("ascii"))
        else:
            watch.answered()

    def _lost(self) -> None:
        """Handle a link that closed without a goodbye: the process is dying, or has exec'd another program."""
        watches = self._let_go()
        if not _is_ending(self._pid):
            return
        if self._pidfd is not None:
            death = select.poll()
            death.register(self._pidfd, select.POLLIN)
            if not death.poll(_DEATH_TIMEOUT_S * 1000):
                return
        self._write_last_word(watches)

    def _died(self) -> None:
        self._write_last_word(self._let_go())

    def _let_go(self) -> list[Watch]:
        """Close everything, so that the loop ends; return the former watches."""
        for descriptor in list(self._knocking):
            self._enter(descriptor)  # it may have handed over just before it died: then it gets a last word
        watches = list(self._watches.values())
        for watch in watches:
            watch.let_go()
        for link in self._knocking.values():
            link.close()
        self._watches.clear()
        self._knocking.clear()
        return watches

    def _write_last_word(self, watches: list[Watch]) -> None:
        """Record how the worker died: one last word, with the address of a socket file if there is one."""
        if not watches:
            return
        died = time.time()
        deadline = time.monotonic() + _STATUS_TIMEOUT_S
        while (status := lastword.exit_status(self._pid, self._pidfd)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        state = min(watches, key=lambda one: not one.has_file).state
        kills = memory.group_of(os.getpid()).kills > self._first_kills
        lastword.write(state.worker.runtime_dir, state.last_word(died, status, kills=kills))


def _is_ending(pid: int) -> bool:
    """Return whether a process is exiting or has exited: the kernel closes its files before it is gone."""
    fields = stat_fields(f"/proc/{pid}/stat")
    return len(fields) <= _FLAGS or fields[0] in ("Z", "X") or bool(int(fields[_FLAGS]) & _PF_EXITING)
