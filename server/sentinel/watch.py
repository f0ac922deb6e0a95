"""The sentinel's loop: it watches over one worker, and serves in its place while it does not answer.

How this works: the sentinel shares the worker's listening sockets. Once a second it looks whether a connection waits
in their backlog. One that waits at two looks in a row makes it probe the worker over the private link; the worker's
accepting thread answers by a word in the shared page. No answer within a second, and a reason for it in two looks
at /proc: then the sentinel accepts and answers, until the worker answers the probe after all. Both ends' sockets
are non-blocking, so that it does no harm when the other one was quicker. Without a reason it waits: a worker
whose many threads take turns with the interpreter lock is slow, not stuck.

It ends when the worker ends (its pidfd says so, whatever the way of dying), when the worker says goodbye, and when
the link closes, as by exec. The worker's socket file is never touched.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Sequence

from torchctl.server.sentinel.answers import Desk
from torchctl.server.sentinel.handover import Handover, receive
from torchctl.server.sentinel.page import Page
from torchctl.server.sentinel.state import Degraded, State
from torchctl.silence import lastword, memory
from torchctl.silence.reasons import Reason, reasons
from torchctl.silence.samples import Sample, sample, start_ticks

_LOOK_S = 1.0
_PATIENCE_S = 10.0  # with a worker that does not answer, and of which nothing tells why
_CONNECT_TIMEOUT_S = 10.0
_DEATH_TIMEOUT_S = 2.0  # between the end of the link and the end of the process
_GOODBYE = b"bye"
_PROBE = b"?"


def main(arguments: Sequence[str]) -> None:
    """Watch over the worker that the arguments name: its private socket's name, pid, start in ticks."""
    name, pid, ticks = arguments[0], int(arguments[1]), int(arguments[2])
    _detach()
    try:
        pidfd: int | None = os.pidfd_open(pid)
    except OSError:
        pidfd = None  # a kernel before 5.3: the link's end and a look a second must do
    if start_ticks(pid) != ticks:
        return
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(_CONNECT_TIMEOUT_S)
    try:
        link.connect(f"\0{name}")
        handover, descriptors = receive(link)
    except (OSError, ValueError):
        return
    link.setblocking(False)
    Watch(handover, descriptors, link, pidfd).run()
    os._exit(0)  # the worker's shutdown waits for our sockets to close: no time for the interpreter's own end


def _detach() -> None:
    """Leave the trainer's session, folder and descriptors; signals meant for the job are not for us."""
    os.closerange(3, 1 << 20)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Watch:
    """One worker's watch.

    Args:
        descriptors: the shared listening sockets, then the page's memfd, then the dump's.
        link: the private connection to the worker.
        pidfd: of the worker, None where the kernel has none.
    """

    def __init__(self, handover: Handover, descriptors: list[int], link: socket.socket, pidfd: int | None) -> None:
        count = len(handover.listeners)
        self._worker = handover
        self._link = link
        self._pidfd = pidfd
        self._sockets = [socket.socket(fileno=one) for one in descriptors[:count]]
        page = Page(descriptors[count])
        os.close(descriptors[count])
        self._state = State(handover, page)
        dump = descriptors[count + 1] if len(descriptors) > count + 1 else None
        self._poll = select.poll()
        self._desk = Desk(self._state, self._poll, dump)
        self._first_kills = memory.group_of(handover.pid).kills
        self._looks = 0  # in a row at which a connection waited
        self._since = 0.0  # the first of them, seconds since the epoch
        self._probe = 0
        self._probed_at: float | None = None
        self._before: tuple[Sample, memory.Group] | None = None
        self._ended = False

    def run(self) -> None:
        """Watch until the worker ends or says goodbye."""
        self._poll.register(self._link, select.POLLIN)
        if self._pidfd is not None:
            self._poll.register(self._pidfd, select.POLLIN)
        next_look = time.monotonic() + _LOOK_S
        while not self._ended:
            now = time.monotonic()
            if now >= next_look:
                next_look = max(next_look + _LOOK_S, now + _LOOK_S / 2)
                self._look()
            wake = min(next_look, self._desk.next_deadline())
            for descriptor, _ in self._poll.poll(max(0.0, wake - time.monotonic()) * 1000):
                if not self._ended:  # of one death both the pidfd and the link tell
                    self._attend(descriptor)
            self._desk.sweep(time.monotonic())

    def _attend(self, descriptor: int) -> None:
        if descriptor == self._pidfd:
            self._died()
        elif descriptor == self._link.fileno():
            self._listen_to_the_worker()
        elif any(one.fileno() == descriptor for one in self._sockets):
            for one, is_tcp in zip(self._sockets, self._worker.listeners, strict=True):
                if one.fileno() == descriptor:
                    self._desk.accept(one, is_tcp)
        else:
            self._desk.attend(descriptor)

    def _listen_to_the_worker(self) -> None:
        try:
            data = self._link.recv(256)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data == _GOODBYE:
            self._ended = True
        elif not data:
            self._poll.unregister(self._link)
            self._lost()
        elif self._probed_at is not None and self._state.words().answered >= self._probe:
            self._hand_back()

    def _lost(self) -> None:
        """The link closed without a goodbye: the process dies, or is another program since an exec."""
        for one in self._sockets:
            one.close()
        if self._pidfd is not None:
            watch = select.poll()
            watch.register(self._pidfd, select.POLLIN)
            if watch.poll(_DEATH_TIMEOUT_S * 1000):
                self._died()
        self._ended = True

    def _died(self) -> None:
        """Let go of the sockets at once, then say of what the worker died."""
        self._ended = True
        for one in self._sockets:
            one.close()
        died = time.time()
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        while (status := lastword.exit_status(self._worker.pid, self._pidfd)) is None:
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        lastword.write(self._worker.runtime_dir, self._state.last_word(died, lastword.in_words(status), self._killer()))

    def _killer(self) -> str:
        """Return a note where the kernel's out-of-memory killer has been at work in the worker's group."""
        kills = memory.group_of(os.getpid()).kills
        return "the out-of-memory killer ran in its control group" if kills > self._first_kills else ""

    def _look(self) -> None:
        if self._pidfd is None and start_ticks(self._worker.pid) != self._worker.start_ticks:
            self._died()
            return
        if self._probed_at is None:
            self._look_at_the_backlog()
        elif self._state.words().answered >= self._probe:
            self._hand_back()
        else:
            self._find_reasons(time.monotonic() - self._probed_at)

    def _look_at_the_backlog(self) -> None:
        waiting = select.poll()
        for one in self._sockets:
            waiting.register(one, select.POLLIN)
        if not waiting.poll(0):
            self._looks = 0
            return
        self._looks += 1
        if self._looks == 1:
            self._since = time.time()
            return
        self._probe += 1
        self._probed_at = time.monotonic()
        self._before = self._sample(everything=True)
        try:
            self._link.send(_PROBE + str(self._probe).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the link's end shows in the poll

    def _find_reasons(self, silent_s: float) -> None:
        """Compare two looks; take over when they tell a reason, or when patience is at its end."""
        assert self._before is not None
        now = self._sample(everything=self._state.degraded is None)
        (before, group_before), (after, group_after) = self._before, now
        server = self._state.words().thread
        found = reasons(before, after, server, (group_before, group_after))
        self._before = now
        if self._state.degraded is None:
            if not found and silent_s < _PATIENCE_S:
                return
            for one in self._sockets:
                self._poll.register(one, select.POLLIN)
        elif not found:
            found = list(self._state.degraded.reasons)  # it has just stirred; the next look will tell
        if not found:
            thread = after.threads.get(server)
            doing = "is gone" if thread is None else f"is in state {thread.state} {thread.wait}".rstrip()
            found = [Reason("unknown", f"no answer for {silent_s:.0f} s; its server thread {doing}")]
        self._state.degraded = Degraded(self._since, tuple(found), server_waits(found))

    def _sample(self, *, everything: bool) -> tuple[Sample, memory.Group]:
        pid = self._worker.pid
        tids = None
        if not everything and self._before is not None:
            known = self._before[0].threads.values()
            server = self._state.words().thread
            tids = [one.tid for one in known if one.tid in (pid, server) or one.state == "D"]
        return sample(pid, tids), memory.group_of(pid)

    def _hand_back(self) -> None:
        """The worker answers again: from now on it serves, and we finish what we have accepted."""
        if self._state.degraded is not None:
            for one in self._sockets:
                self._poll.unregister(one)
        self._state.degraded = None
        self._probed_at, self._before, self._looks = None, None, 0


def server_waits(found: Sequence[Reason]) -> bool:
    """Whether the evidence says that the server's thread has waited for the interpreter lock all the time."""
    return any(reason.kind == "lock_held" for reason in found)
