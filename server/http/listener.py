"""Listening sockets on `socketserver`, Unix and TCP, and the thread that accepts on each.

How this works: one daemon thread per listener sleeps in `poll` on the listening socket and on one end of a
socket pair, without a timeout, so that an idle server never wakes up and `stop` is noticed at once. Each
connection gets its own thread (`ThreadingMixIn`), bounded by the table in `connections`. All our threads
block every signal except their own faults: a signal meant for the trainer must reach one of the trainer's
threads. See `forking` for what happens when the trainer forks.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from torchctl import protocol
from torchctl.server.guest import ownership
from torchctl.server.http import unixpath
from torchctl.server.http.channel import Channel, door_of
from torchctl.server.http.connection import Connection
from torchctl.server.http.connections import Connections
from torchctl.server.http.gate import Gate

if TYPE_CHECKING:
    from torchctl.server.http.tls import ServerTls

# Caused by the thread's own instructions: blocking these would turn a crash report into a silent kill.
_OWN_FAULTS = {getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS")}
_OUT_OF_DESCRIPTORS_PAUSE_S = 1.0
_BUSY = b"all connections of this server are in use; try again in a few seconds\n"
_BUSY_REPLY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(_BUSY), _BUSY)
)


class Attendant(Protocol):
    """What shares an accepting thread's poll with its listener: the link to the sentinel."""

    def join(self, poll: select.poll) -> None: ...

    def attend(self, poll: select.poll, descriptor: int) -> None: ...

    def stop(self) -> None: ...

    def release(self) -> None: ...


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """What both kinds of listener share.

    Args:
        address: what `bind` takes.
        connections: the whole server's table.
        gate: who may send requests.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = protocol.BACKLOG
    allow_pause = False
    tls: ServerTls | None = None
    companion: Attendant | None = None  # the server's; runs on the thread of its first listener

    def __init__(self, address: Any, connections: Connections, gate: Gate) -> None:
        ownership.fill_standard()
        self._wake_end, self._stop_end = socket.socketpair()  # first: nothing is bound yet if it fails
        try:
            super().__init__(address, socketserver.BaseRequestHandler)  # unused: see `finish_request`
        except BaseException:
            self._wake_end.close()
            self._stop_end.close()
            raise
        self.socket.setblocking(False)
        self._own = ownership.Sockets(self.socket, self._wake_end, self._stop_end)
        self._door = door_of(self.socket)
        self.connections = connections
        self.pid = os.getpid()
        self.gate = gate
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start accepting on a new thread; do nothing if the trainer has closed our descriptors.

        Raises:
            RuntimeError: no thread can be started.
        """
        if not self._own.give_up_lost():
            return
        thread = threading.Thread(target=self.serve_forever, name="torchctl-accept", daemon=True)
        thread.start()
        self._thread = thread

    @property
    def accepting(self) -> bool:
        """Whether the accepting thread exists."""
        return self._thread is not None

    def pause(self, timeout_s: float) -> bool:
        """Stop accepting and end the thread; clients wait in the backlog until `start`.

        Returns:
            Whether the thread has ended.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return False
        if not self._own.give_up_lost():
            return False  # it has ended, or sleeps forever in `poll` on a file that was ours: do not wait for it
        with contextlib.suppress(OSError):
            self._stop_end.send(b"x", socket.MSG_NOSIGNAL)
        thread.join(timeout_s)
        if thread.is_alive():
            return False
        self._thread = None
        with contextlib.suppress(OSError):
            self._wake_end.setblocking(False)
            self._wake_end.recv(16)
        return True

    def stop(self, timeout_s: float) -> None:
        """Stop accepting for good and close the listening socket; open connections continue."""
        self.pause(timeout_s)
        self._own.give_up_lost()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # frees the port even if a sentinel has not released it yet
        self.release()

    def release(self) -> None:
        """Close our descriptors and nothing more: all that a forked child may do."""
        self._own.give_up_lost()
        for own in (self.socket, self._wake_end, self._stop_end):
            own.close()

    def stop_companion(self) -> None:
        """Say goodbye to the sentinel, which then releases the sockets."""
        companion, self.companion = self.companion, None
        if companion is not None:
            companion.stop()

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Accept until `stop`; `poll_interval` is socketserver's and unused."""
        block_signals()
        poll = select.poll()
        listening, wake = self.socket.fileno(), self._wake_end.fileno()
        try:
            poll.register(listening, select.POLLIN)
            poll.register(wake, select.POLLIN)
        except ValueError:
            return  # shut down before this thread first ran
        companion = self.companion
        if companion is not None:
            companion.join(poll)
        while self._own.give_up_lost():
            ready = poll.poll()
            if not self._own.give_up_lost():
                return  # what is ready now belongs to the trainer
            for descriptor, _ in ready:
                if descriptor == wake:
                    return
                with contextlib.suppress(Exception):  # such as out of memory: one client is lost, stderr stays clean
                    if descriptor == listening:
                        self._accept()
                    elif companion is not None:
                        companion.attend(poll, descriptor)

    def _accept(self) -> None:
        try:
            connection, address = self.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process took it, or the client is already gone
        except OSError:
            # The trainer has used up its descriptors or memory: do not spin on a socket that stays readable.
            self._wake_end.settimeout(_OUT_OF_DESCRIPTORS_PAUSE_S)
            with contextlib.suppress(OSError):
                self._wake_end.recv(1, socket.MSG_PEEK)
            return
        try:
            channel = Channel(connection, self._door)
        except OSError:
            return  # the trainer has closed it in the meantime, or the client is already gone
        if self.connections.add(channel) is None:
            _turn_away(channel)
            return
        try:
            self.process_request(channel, address)
        except RuntimeError:
            # No thread can be started: the interpreter is ending (Python 3.12 and later), or the limit is reached.
            try:
                Connection(self.connections.slot_of(channel), self, only_one=True).serve()
            finally:
                self.shutdown_request(channel)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="torchctl-conn",
            daemon=True,
        )
        self.connections.slot_of(request).thread = thread
        thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread."""
        Connection(self.connections.slot_of(request), self).serve()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and free its slot."""
        self.connections.remove(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: stderr belongs to the trainer."""


class UnixListener(Listener, socketserver.ThreadingUnixStreamServer):
    """Listens on a socket file, mode 0600 from the start; `address` is its path."""

    def server_bind(self) -> None:
        """Bind, replacing a stale file; anything else in the way is an error."""
        self.identity = unixpath.bind(self.socket, str(self.server_address))
        self._absolute = os.path.abspath(str(self.server_address))  # the trainer may change its folder

    def unlink(self) -> None:
        """Remove the socket file if it is still ours."""
        unixpath.unlink(self._absolute, self.identity)


class TcpListener(Listener):
    """Listens on one IPv4 or IPv6 address, with TLS if given; `address` is (host, port)."""

    allow_reuse_address = True

    def __init__(
        self, family: socket.AddressFamily, address: Any, connections: Connections, gate: Gate, tls: ServerTls | None
    ) -> None:
        self.address_family = family
        self.tls = tls
        super().__init__(address, connections, gate)

    def server_bind(self) -> None:
        """Bind; an IPv6 address leaves the same IPv4 port free for the other listener."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


def _turn_away(channel: Channel) -> None:
    now = time.monotonic()
    with contextlib.suppress(OSError):
        channel.send(_BUSY_REPLY, now)
        channel.finish_sending()
        channel.receive(protocol.MAX_LINE_BYTES, now)  # an unread request would reset the connection
    channel.close()


def block_signals() -> None:
    """Keep the trainer's signals away from the calling thread and the threads that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _OWN_FAULTS)
