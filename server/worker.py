"""`WorkerServer`: a debug server in this process, on a Unix socket or on TCP."""

from __future__ import annotations

import atexit
import errno
import os
import socket
import threading
import time
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from torchctl import protocol
from torchctl.errors import AddressInUseError, ServerError
from torchctl.server.guest import companion, forking, launch, native_server
from torchctl.server.http.connections import Connections
from torchctl.server.http.gate import Gate, is_loopback, own_names
from torchctl.server.http.listener import Listener, TcpListener, UnixListener
from torchctl.server.options import WorkerOptions

if TYPE_CHECKING:
    from torchctl.server.http.tls import ServerTls

_LOOPBACK_NAMES = ("", "localhost")
_EPHEMERAL_TRIES = 16  # to find a port that is free on both loopback addresses


def _begin_recording() -> ModuleType:
    from torchctl.server.guest import recording  # late: only servers that record pay for it

    recording.begin()
    return recording


class WorkerServer:
    """Serve this process's debug handlers until `shutdown`; also a context manager.

    Args:
        host_or_file: path of a Unix socket, or a host when `port` is given. ``""`` means loopback,
            IPv4 and IPv6. Any interface other than loopback requires a token.
        port: -1 for a Unix socket, else the TCP port; 0 picks a free one, which `port` then holds.
        read_only, token_file, tls_cert, tls_key, sentinel, native_companion, allow_pause, record_p2p: see
            `torchctl.server.options.WorkerOptions`.

    Attributes:
        port: the TCP port in use, -1 for a Unix socket.
        address: the socket's path, or ``HOST:PORT``.
        tls: whether it speaks TLS.

    Raises:
        ServerError: the address cannot be used, or others can reach it and no token is set.
        AddressInUseError: a live server already uses it; the message names its owner.
        SecretFileError: the token file or key file cannot be used, or others can access it.

    Source: torch/csrc/distributed/c10d/control_plane/WorkerServer.hpp (torch 2.13).
    """

    def __init__(
        self,
        host_or_file: str,
        port: int = -1,
        *,
        read_only: bool = False,
        token_file: str = "",
        tls_cert: str = "",
        tls_key: str = "",
        sentinel: bool = True,
        native_companion: bool = False,
        allow_pause: bool = False,
        record_p2p: bool = False,
    ) -> None:
        self._owner_pid = os.getpid()
        self._connections = Connections(protocol.MAX_CONNECTIONS)
        # Held while listeners start, pause or stop; reentrant, since a signal handler may then shut down or fork.
        self._changing = threading.RLock()
        self._stopped = False
        self._listeners: list[Listener] = []
        if not -1 <= port <= 65535:
            raise ServerError(f"{port} is not a TCP port: 0 to 65535, or -1 for a Unix socket")
        options = WorkerOptions(
            read_only, token_file, tls_cert, tls_key, sentinel, native_companion, allow_pause, record_p2p
        )
        if port == -1:
            self._listeners.append(UnixListener(os.fspath(host_or_file), self._connections, options.unix_gate()))
            self.port, self.address, self.tls = -1, os.fspath(host_or_file), False
        else:
            self._listen_tcp(host_or_file, port, options.tcp_tls(), options.tcp_gate())
        self._recording = _begin_recording() if options.records_p2p() else None
        self._native = native_server.start() if options.native_companion else None
        if options.sentinel and launch.wanted():
            self._listeners[0].companion = self._companion()
        forking.watch(self)
        atexit.register(self.shutdown)
        try:
            with self._changing:
                for listener in self._listeners:
                    listener.allow_pause = options.allow_pause
                    listener.start()
        except RuntimeError as error:
            self.shutdown()
            raise ServerError(f"cannot start a thread for the server: {error}") from error

    def _companion(self) -> companion.Companion:
        # A sentinel does not speak TLS, so the worker keeps TLS sockets to itself.
        plain = [one for one in self._listeners if one.tls is None]
        shared = [companion.Shared(one.socket, one.gate, isinstance(one, TcpListener)) for one in plain]
        return companion.Companion(shared, self.address, "" if self._native is None else self._native.path)

    def _listen_tcp(self, host: str, port: int, tls: ServerTls | None, gate: Gate) -> None:
        addresses = _addresses(host)
        if gate.token is None and not all(is_loopback(address) for _, (address, _) in addresses):
            raise ServerError(
                f"refusing to listen on {host} without a token: others can reach it",
                hint=f"set {protocol.TOKEN_VARIABLE} or {protocol.TOKEN_FILE_VARIABLE}, or use a loopback address",
            )
        guarded = [(address, _at(host, address, gate)) for address in addresses]
        for attempt in range(_EPHEMERAL_TRIES):
            try:
                self._listeners = [*_bind_all(guarded, port, self._connections, tls)]
                break
            except OSError as error:
                if port == 0 and attempt + 1 < _EPHEMERAL_TRIES:
                    continue
                message = f"cannot listen on {host or 'loopback'} port {port}: {error.strerror}"
                kind = AddressInUseError if error.errno == errno.EADDRINUSE else ServerError
                raise kind(message, hint="choose another port; 0 picks a free one") from error
        self.port = int(self._listeners[0].server_address[1])
        self.address = f"{host or 'localhost'}:{self.port}"
        self.tls = tls is not None

    def shutdown(self) -> None:
        """Stop serving within 0.5 s: close every socket, end every thread, remove the socket file.

        A running handler gets half of that time to finish its answer. May be called twice, and does nothing
        in a forked child.
        """
        if os.getpid() != self._owner_pid:
            return
        with self._changing:
            if self._stopped:
                return
            self._stopped = True
            atexit.unregister(self.shutdown)
            forking.forget(self)
            deadline = time.monotonic() + protocol.SHUTDOWN_TIMEOUT_S
            for listener in self._listeners:
                listener.stop(deadline - time.monotonic())
                listener.stop_companion()
                if isinstance(listener, UnixListener):
                    listener.unlink()
            if self._native is not None:
                self._native.stop()
            if self._recording is not None:
                self._recording.end()
        slots, threads = self._connections.slots(), self._connections.threads()
        for slot in slots:
            if slot.waiting_since is not None:
                slot.channel.hang_up()
        _join(threads, deadline - protocol.SHUTDOWN_TIMEOUT_S / 2)
        for slot in slots:
            slot.channel.hang_up()
        _join(threads, deadline)

    def pause(self) -> None:
        """End the idle threads before a fork; clients wait in the backlog."""
        with self._changing:
            for listener in self._listeners:
                listener.pause(protocol.SHUTDOWN_TIMEOUT_S)

    def resume(self) -> None:
        """Accept again after a fork, in the parent."""
        with self._changing:
            for listener in self._listeners:
                if not self._stopped and not listener.accepting:
                    listener.start()

    def release(self) -> None:
        """Close the inherited descriptors in a forked child, so that they do not outlive the parent."""
        for listener in self._listeners:
            listener.release()
            if listener.companion is not None:
                listener.companion.release()
        for slot in self._connections.slots():
            slot.channel.close()

    def __enter__(self) -> WorkerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def _join(threads: list[threading.Thread], deadline: float) -> None:
    for thread in threads:
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


_Address = tuple[socket.AddressFamily, tuple[str, int]]


def _addresses(host: str) -> list[_Address]:
    """Return the addresses to bind for a host; loopback means both the IPv4 and the IPv6 address."""
    if host in _LOOPBACK_NAMES:
        found = [(socket.AF_INET, ("127.0.0.1", 0))]
        if _has_ipv6_loopback():
            found.append((socket.AF_INET6, ("::1", 0)))
        return found
    try:
        resolved = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServerError(f"the host {host!r} cannot be resolved: {error.strerror}") from error
    family, _, _, _, address = resolved[0]
    return [(family, (str(address[0]), 0))]


def _at(host: str, address: _Address, gate: Gate) -> Gate:
    """Return the access rules for an address: on loopback a request must name this host."""
    return gate._replace(own_names=own_names(host)) if is_loopback(address[1][0]) else gate


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


def _bind_all(
    addresses: list[tuple[_Address, Gate]], port: int, connections: Connections, tls: ServerTls | None
) -> list[TcpListener]:
    """Bind every address to the same port, or none of them."""
    bound: list[TcpListener] = []
    try:
        for (family, (host, _)), gate in addresses:
            listener = TcpListener(family, (host, port), connections, gate, tls)
            bound.append(listener)
            port = int(listener.server_address[1])
    except OSError:
        for listener in bound:
            listener.release()
        raise
    return bound
