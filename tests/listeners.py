"""Listeners that are no workers, or bad ones: what the client must survive."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(path: str, serve: Serve, *, read_first: bool = True) -> Iterator[None]:
    """Listen on a Unix socket and give each connection to `serve` on a thread of its own."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    with _serving(server, serve, read_first=read_first):
        yield


@contextlib.contextmanager
def listening_on_tcp(serve: Serve) -> Iterator[int]:
    """Listen on a free port of loopback, and return it."""
    server = socket.create_server(("127.0.0.1", 0))
    with _serving(server, serve, read_first=False):
        yield int(server.getsockname()[1])


@contextlib.contextmanager
def _serving(server: socket.socket, serve: Serve, *, read_first: bool) -> Iterator[None]:
    server.listen(16)
    open_connections: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if read_first:
                connection.recv(65536)
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                open_connections.append(connection)
                threads.append(threading.Thread(target=one, args=(connection,), daemon=True))
                threads[-1].start()

    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)


def saying(data: bytes) -> Serve:
    """Return a `serve` that sends bytes and hangs up."""
    return lambda connection: connection.sendall(data)


def reply(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> Serve:
    """Return a `serve` that answers any request with a well-formed reply."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
    return saying(head + headers + b"\r\n" + body)


def silent(connection: socket.socket) -> None:
    """Accept, read, and never answer."""
    while connection.recv(65536):
        pass


def dripping(connection: socket.socket) -> None:
    """Send a byte of an answer every 50 ms, for ever: each read succeeds, the reply never ends."""
    pause = threading.Event()
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X")
        pause.wait(0.05)


def flooding(connection: socket.socket) -> None:
    """Send a body without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def greeting_as_a_store(then: Serve) -> Serve:
    """Return a `serve` that answers a TCPStore client's greeting, and leaves what follows to `then`."""

    def serve(connection: socket.socket) -> None:
        greeting = connection.recv(10, socket.MSG_WAITALL)  # 5 bytes to validate, then a ping and its number
        connection.sendall(greeting[6:])
        if connection.recv(65536):
            then(connection)

    return serve
