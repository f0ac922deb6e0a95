"""One server's watch: whether its clients are left waiting, and when to serve in its place.

How this works: the sentinel shares the server's listening sockets. Once a second it checks for a connection in their
backlog. If one waits through two checks, it probes the worker over the private link; the worker's accepting thread
answers with a word in the shared page. If there is no answer within a second, and two samples of /proc show a reason,
the sentinel accepts and answers until the worker answers the probe after all. The sockets are non-blocking on both
sides, so it does no harm if the other side was quicker. Without a reason it waits: a worker whose many threads take
turns with the interpreter lock is slow, not stuck. The loop around it is in `loop`.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence

from torchctl.process import memory
from torchctl.process.reasons import Reason, reasons
from torchctl.process.samples import Sample, sample
from torchctl.server.sentinel.answers import Desk
from torchctl.server.sentinel.handover import Handover
from torchctl.server.sentinel.page import Page
from torchctl.server.sentinel.state import Degraded, State

_PATIENCE_S = 10.0  # with a worker that does not answer for no visible reason
_PROBE = b"?"


class Watch:
    """One server's watch.

    Args:
        descriptors: the shared listening sockets, then the page's memfd, then the dump's.
        link: the private connection to the server.
        poll: the loop's.

    Attributes:
        desk: answers clients.
        state: what is known about the worker.
    """

    def __init__(self, handover: Handover, descriptors: list[int], link: socket.socket, poll: select.poll) -> None:
        count = len(handover.listeners)
        self.link = link
        self._worker = handover
        self._sockets = [socket.socket(fileno=one) for one in descriptors[:count]]
        self._gates = {one.fileno(): rules.gate() for one, rules in zip(self._sockets, handover.listeners, strict=True)}
        page = Page(descriptors[count])
        os.close(descriptors[count])
        self.state = State(handover, page)
        self._dump = descriptors[count + 1] if len(descriptors) > count + 1 else None
        self._poll = poll
        self.desk = Desk(self.state, poll, self._dump)
        self._looks = 0  # in a row that found a connection waiting
        self._since = 0.0  # time of the first of them, in seconds since the epoch
        self._probe = 0
        self._probed_at: float | None = None
        self._before: tuple[Sample, memory.ControlGroup] | None = None
        poll.register(link, select.POLLIN)

    @property
    def has_file(self) -> bool:
        """Whether the server listens on a socket file."""
        return any(not rules.is_tcp for rules in self._worker.listeners)

    def attend(self, descriptor: int) -> None:
        """Handle a descriptor that is ready; ignore it if it is not ours."""
        for one in self._sockets:
            if one.fileno() == descriptor:
                self.desk.accept(one, self._gates[descriptor])
                return
        self.desk.attend(descriptor)

    def answered(self) -> None:
        """Handle the worker's message on the link: hand back if it answers the open probe."""
        if self._probed_at is not None and self.state.words().answered >= self._probe:
            self._hand_back()

    def let_go(self) -> None:
        """Close the listening sockets, hang up on clients, and close the link last: the worker waits for that."""
        for one in self._sockets:
            if self.state.degraded is not None:
                self._poll.unregister(one)
            one.close()
        self._sockets = []
        self.desk.close()
        if self._dump is not None:
            os.close(self._dump)
            self._dump = None
        if self.link.fileno() >= 0:
            self._poll.unregister(self.link)
            self.link.close()

    def look(self) -> None:
        """Check the backlog, or a worker that has not answered a probe; called once a second."""
        if self._probed_at is None:
            self._look_at_the_backlog()
        elif self.state.words().answered >= self._probe:
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
            self.link.send(_PROBE + str(self._probe).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the poll will report that the link has closed

    def _find_reasons(self, silent_s: float) -> None:
        """Compare two samples; take over if they show a reason, or when patience runs out."""
        assert self._before is not None
        now = self._sample(everything=self.state.degraded is None)
        (before, group_before), (after, group_after) = self._before, now
        server = self.state.words().thread
        found = reasons(before, after, server, (group_before, group_after))
        self._before = now
        if self.state.degraded is None:
            if not found and silent_s < _PATIENCE_S:
                return
            for one in self._sockets:
                self._poll.register(one, select.POLLIN)
        elif not found:
            found = list(self.state.degraded.reasons)  # it has just moved; the next check will show more
        if not found:
            thread = after.threads.get(server)
            doing = "is gone" if thread is None else f"is in state {thread.state} {thread.wait}".rstrip()
            found = [Reason("unknown", f"no answer for {silent_s:.0f}s; its server thread {doing}")]
        self.state.degraded = Degraded(self._since, tuple(found), server_waits(found))

    def _sample(self, *, everything: bool) -> tuple[Sample, memory.ControlGroup]:
        pid = self._worker.pid
        tids = None
        if not everything and self._before is not None:
            known = self._before[0].threads.values()
            server = self.state.words().thread
            tids = [one.tid for one in known if one.tid in (pid, server) or one.state == "D"]
        return sample(pid, tids), memory.group_of(pid)

    def _hand_back(self) -> None:
        """Let the worker serve again, since it answers; we finish what we accepted."""
        if self.state.degraded is not None:
            for one in self._sockets:
                self._poll.unregister(one)
        self.state.answers_again()
        self._probed_at, self._before, self._looks = None, None, 0


def server_waits(found: Sequence[Reason]) -> bool:
    """Return whether the evidence shows that the server's thread waited for the interpreter lock the whole time."""
    return any(reason.kind == "lock_held" for reason in found)
