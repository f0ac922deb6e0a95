"""Check whether a TCPStore listens at a port, by speaking its protocol, without torch.

How this works: torch's client connects and then waits for an answer without any limit, so a port where
something else listens would block it forever. The probe connects to all addresses of the name at once, sends
the store's greeting and a ping, and takes the first address that sends the ping's number back. We then pass
torch that address, not the name, for which it would take the first address that merely accepts the connection.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time

from torchctl.text import duration

# Source: torch/csrc/distributed/c10d/TCPStoreBackend.hpp (2.13): QueryType VALIDATE = 0 with its magic
# number, PING = 13 with a number that the store sends back; both backends, libuv and plain sockets.
_VALIDATE = struct.pack("<BI", 0, 0x3C85F7CE)
_PING = 13
# The address family cannot be used at all, such as IPv6 turned off: irrelevant if another address was refused.
_NO_WAY = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH})


class NotAStoreError(OSError):
    """Something listens there, and it is not a TCPStore."""


class SilentError(TimeoutError):
    """Something accepted the connection or swallowed the packets, and never answered."""


def probe_store(host: str, port: int, timeout_s: float) -> str:
    """Return the numeric address at which a TCPStore answers.

    Args:
        host: a name or an address; all its addresses are tried at once.
        timeout_s: for connecting and answering, without the time to resolve the name.

    Raises:
        socket.gaierror: the name does not resolve.
        ConnectionRefusedError: nothing listens at any of the addresses.
        NotAStoreError: something else answered.
        SilentError: no answer in time.
        OSError: no route and the like.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # not a possible name: two dots, or a label over 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name") from error
    targets = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    nonce = os.urandom(4)
    errors: list[OSError] = []
    with selectors.DefaultSelector() as selector:
        try:
            for family, address in targets:
                _start(selector, family, address, errors)
            answered = _first_answer(selector, nonce, time.monotonic() + timeout_s, errors)
        finally:
            for key in list(selector.get_map().values()):
                _drop(selector, key.fileobj)
    if answered is not None:
        return answered
    raise worst_error(errors, host, port, timeout_s)


def _start(selector: selectors.BaseSelector, family: int, address: tuple[object, ...], errors: list[OSError]) -> None:
    """Start connecting to one address."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        errors.append(error)
        return
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code in (0, errno.EINPROGRESS):
        selector.register(sock, selectors.EVENT_WRITE, str(address[0]))
    else:
        errors.append(OSError(code, os.strerror(code)))
        sock.close()


def _first_answer(selector: selectors.BaseSelector, nonce: bytes, end: float, errors: list[OSError]) -> str | None:
    """Return the first address that echoes `nonce`, or None if none is left or the time is up."""
    while selector.get_map():
        remaining = end - time.monotonic()
        if remaining <= 0:
            errors.append(SilentError())
            return None
        for key, _ in selector.select(remaining):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if key.events == selectors.EVENT_WRITE:
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        raise OSError(code, os.strerror(code))
                    sock.sendall(_VALIDATE + struct.pack("<B", _PING) + nonce)  # 10 bytes: never partial
                    selector.modify(sock, selectors.EVENT_READ, key.data)
                elif sock.recv(len(nonce)) == nonce:
                    return str(key.data)
                else:
                    raise NotAStoreError("something other than a TCPStore answered")
            except ConnectionResetError:
                errors.append(NotAStoreError("the connection was closed"))
                _drop(selector, sock)
            except OSError as error:
                errors.append(error)
                _drop(selector, sock)
    return None


def _drop(selector: selectors.BaseSelector, fileobj: object) -> None:
    assert isinstance(fileobj, socket.socket)
    selector.unregister(fileobj)
    fileobj.close()


def worst_error(errors: list[OSError], host: str, port: int, timeout_s: float) -> OSError:
    """Return the most informative error: not a store, then silence, then no route, and last a refusal."""
    if any(isinstance(error, NotAStoreError) for error in errors):
        return NotAStoreError(f"what listens on {host}:{port} is not a TCPStore")
    if any(isinstance(error, SilentError) for error in errors):
        return SilentError(f"nothing on {host}:{port} answered as a TCPStore within {duration(timeout_s)}")
    telling = [error for error in errors if error.errno not in _NO_WAY] or errors
    for error in telling:
        if not isinstance(error, ConnectionRefusedError):
            return error
    return telling[0] if telling else OSError(f"{host} has no address")
