"""The worker's side of its sentinel: start it, hand over, answer its probes, say goodbye.

How this works: all of it runs on the server's accepting thread, whose `poll` the companion shares, so it needs no
extra thread and no extra wake-up. The thread starts the sentinel detached (see `launch`) with the name of a private
socket on its command line, and keeps accepting. When a process of our own user connects to that socket, it gets the
listening sockets and the shared page over the connection, which stays open as the link between the two: probes arrive
on it, and both sides notice when it closes (see `link`). A sentinel that dies is not restarted: someone may have killed
it for a reason, and a restart loop would hurt. All servers of a process share one sentinel (see `sharing`).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Sequence
from typing import NamedTuple

from torchctl import __version__
from torchctl.process.pyspy import find_pyspy
from torchctl.process.samples import start_ticks
from torchctl.protocol import runtimedir
from torchctl.server import registry
from torchctl.server.guest import identity, launch, sharing, stackdump, step
from torchctl.server.guest.link import Door, Link
from torchctl.server.guest.sharedpage import SharedPage
from torchctl.server.http.gate import Gate
from torchctl.server.sentinel import handover
from torchctl.server.sentinel.page import Page


class Shared(NamedTuple):
    """A listening socket to hand to the sentinel, and who may use it."""

    socket: socket.socket
    gate: Gate
    is_tcp: bool


class Companion:
    """One server's link to the sentinel of this process.

    Args:
        listeners: the server's listening sockets; those that speak TLS are left out.
        address: the server's, as the operator would write it.
        native: path of torch's own server in this process, or "" for none.
    """

    def __init__(self, listeners: Sequence[Shared], address: str, native: str) -> None:
        self._listeners = listeners
        self._address = address
        self._native = native
        self._place = sharing.Place(address if listeners else None)
        self._door: Door | None = None  # until the sentinel has connected
        self._page: SharedPage | None = None
        self._dump: stackdump.Dump | None = stackdump.prepare()
        self._started = False
        self._stopped = False

    def join(self, poll: select.poll) -> None:
        """Take part in the accepting thread's poll; start the sentinel the first time."""
        if self._stopped:
            return
        self._give_up_lost()
        if not self._started:
            self._started = True
            with contextlib.suppress(Exception):  # out of processes or memory: run without a sentinel
                self._start()
        if self._page is not None:
            self._page.words.set_thread(threading.get_native_id())
        for one in (self._door, self._place.link):
            if one is not None and one.fileno() >= 0:
                poll.register(one, select.POLLIN)
        if self._dump is not None:
            self._dump.unblock()

    def attend(self, poll: select.poll, descriptor: int) -> None:
        """Handle one of our descriptors that is ready; ignore any other."""
        door, page, link = self._door, self._page, self._place.link
        if not self._give_up_lost():
            poll.unregister(descriptor)  # it now belongs to the trainer
        elif page is None:
            return
        elif link is not None and descriptor == link.fileno():
            self._answer(poll, link, page.words)
        elif door is not None and descriptor == door.fileno():
            try:
                self._let_in(door, page)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except Exception:  # for example out of descriptors: run without a sentinel
                poll.unregister(door)
                self._close_door()
                return
            if self._place.link is not None:
                poll.unregister(door)
                self._close_door()
                poll.register(self._place.link, select.POLLIN)

    def stop(self) -> None:
        """Say goodbye, and wait briefly until the sentinel has released the sockets."""
        self._give_up_lost()
        self._stopped = True
        self._close_door()
        link = self._place.leave()
        if link is not None:
            link.say_goodbye(wait=True)
            if sharing.is_last():
                link.collect()
        self._let_go_of_page()
        if self._dump is not None:
            self._dump.close()
            self._dump = None

    def release(self) -> None:
        """Close what was inherited, in a forked child."""
        self._give_up_lost()
        self._close_door()
        sharing.forget_all()
        link = self._place.leave()
        if link is not None:
            link.close()
        if self._dump is not None:
            self._dump.close()
        page, self._page = self._page, None
        if page is not None:
            page.unmap()

    def _give_up_lost(self) -> bool:
        """Give up, untouched, the descriptors that the trainer has closed; return whether none was lost."""
        there = [one.is_there() for one in (self._door, self._place.link) if one is not None]
        return all(there)

    def _start(self) -> None:
        if not launch.possible():
            return
        self._page = SharedPage()
        self._door = door = Door()
        if self._stopped:  # another thread stopped the server in the meantime, and may not have seen them
            self._close_door()
            self._let_go_of_page()
            return
        self._place.wait(door.name)

    def _let_in(self, door: Door, page: SharedPage) -> None:
        """Hand over to the sentinel that connects, and keep the link."""
        link = door.open()
        if link is None:
            return
        launch.allow_reading_by(link.pid)
        descriptors = [*(one.socket.fileno() for one in self._listeners), page.descriptor]
        if self._dump is not None:
            descriptors.append(self._dump.descriptor)
        try:
            link.hand_over(self._description(), descriptors)
        except OSError:
            link.close()
            return
        if step.last is not None:
            page.words.report(*step.last)
        if not self._place.enter(link, page.words):
            # Another thread stopped the server in the meantime, without waiting for this thread.
            link.say_goodbye(wait=False)

    def _description(self) -> handover.Handover:
        where = identity.place()
        return handover.Handover(
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            address=self._address,
            listeners=[handover.rules_of(one.gate, one.is_tcp) for one in self._listeners],
            rank=where.rank,
            world_size=where.world_size,
            job_id=identity.job_id(),
            attempt=identity.attempt(),
            host=socket.gethostname(),
            runtime_dir=os.path.abspath(runtimedir.runtime_dir()),
            version=__version__,
            pyspy=find_pyspy(),
            dump_signal=None if self._dump is None else self._dump.signal,
            native=self._native,
            costly=registry.costly_names(),
        )

    def _answer(self, poll: select.poll, link: Link, page: Page) -> None:
        """Answer a probe: write to the page first, which does not need to take the interpreter lock again."""
        data = link.receive()
        if data is None:
            return
        if not data:
            poll.unregister(link)
            self._place.lose()
            link.close()
            link.collect()
            return
        if data[1:].isdigit():
            page.answer(int(data[1:]))
            where = identity.place()
            page.set_place(where.rank, where.world_size)
            link.send(data)

    def _close_door(self) -> None:
        """Close the door, and the descriptor that is only handed over there."""
        if self._page is not None:
            self._page.close_descriptor()
        if self._door is not None:
            self._door.close()
            self._door = None

    def _let_go_of_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            page.let_go()
