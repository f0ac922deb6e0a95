"""Connect to thousands of workers on one asyncio loop, without blocking, as far as file descriptors allow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Callable

from torchctl.workers.ask.resolving import Resolver

_RETRY_S = 0.005  # between attempts while a Unix socket's backlog is full


async def connect_tcp(host: str, port: int, resolver: Resolver) -> socket.socket:
    """Return a connection to the first of a host's addresses that accepts one.

    Raises:
        OSError: none does; the error is that of the last address.
    """
    loop = asyncio.get_running_loop()
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, address in await resolver.addresses(host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def connect_unix(path: str, note_busy: Callable[[bool], None]) -> socket.socket:
    """Return a connection to a Unix socket, waiting while its backlog is full.

    The kernel returns EAGAIN in that case, which asyncio would treat as success.

    Args:
        note_busy: called with whether the last attempt found the backlog full.

    Raises:
        OSError: nothing listens, or another connection error.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while (code := sock.connect_ex(path)) == errno.EAGAIN:
            note_busy(True)
            await asyncio.sleep(_RETRY_S)
        note_busy(False)
        if code:
            raise OSError(code, "")
        return sock
    except BaseException:
        sock.close()
        raise


def raise_file_limit(needed: int) -> int:
    """Raise the soft limit on file descriptors towards the hard one if needed, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed if soft == resource.RLIM_INFINITY else soft
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
