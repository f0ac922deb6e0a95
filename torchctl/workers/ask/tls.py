"""TLS on the operator's side: always verified, against one file of CA certificates. Imported only if `--ca` is given.

How this works: a single worker's socket becomes an `ssl` socket that keeps the plain socket's deadline. Many workers
are asked over bare sockets on asyncio, for which the standard library has no TLS: there an `SSLObject` encrypts and
decrypts, and this module moves the bytes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from torchctl.errors import TorchctlError
from torchctl.workers.ask.deadlinesocket import DeadlineSocket

T = TypeVar("T")
_CHUNK_BYTES = 1 << 18


@lru_cache(maxsize=8)
def context(ca: str) -> ssl.SSLContext:
    """Return a context that accepts only certificates signed by a CA in the file `ca` (PEM) and naming the host.

    Raises:
        TorchctlError: the file cannot be read, or has no certificate.
    """
    try:
        made = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        hint = "it must be a PEM file: -----BEGIN CERTIFICATE-----"
        raise TorchctlError(f"the CA file {ca} has no certificate", hint=hint) from error
    except OSError as error:
        raise TorchctlError(f"the CA file {ca} cannot be read: {error.strerror}") from error
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.sslsocket_class = _DeadlineTlsSocket
    return made


class _DeadlineTlsSocket(DeadlineSocket, ssl.SSLSocket):
    """A TLS socket to one worker, with one deadline for all its waits."""


def secured(sock: socket.socket, ca: str, host: str, deadline: float) -> socket.socket:
    """Wrap a connected socket in verified TLS; `sock` is detached afterwards.

    Args:
        host: the name or address that the certificate must have, as the operator typed it.
        deadline: `time.monotonic` seconds, for the handshake and every read and write.

    Raises:
        OSError: the handshake failed; `ssl.SSLCertVerificationError` if the certificate cannot be verified.
    """
    # No suppress_ragged_eofs: a cut connection must not look like the end of a reply.
    wrapped = context(ca).wrap_socket(
        sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    assert isinstance(wrapped, _DeadlineTlsSocket)
    try:
        wrapped.deadline = deadline
        wrapped.limit()
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped


class AsyncTls:
    """TLS over a connected non-blocking socket on an asyncio loop; the caller enforces the deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, ca: str, host: str) -> None:
        self._loop = loop
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context(ca).wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def handshake(self) -> None:
        """Verify the other end; raises as `secured` does."""
        await self._carried(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._carried(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        """Return the next bytes, or ``b""`` if the other end closed properly; a cut connection is an error."""
        try:
            return await self._carried(lambda: self._tls.read(_CHUNK_BYTES))
        except ssl.SSLZeroReturnError:
            return b""

    async def _carried(self, step: Callable[[], T]) -> T:
        """Run one TLS step, moving bytes both ways until it is done."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._loop.sock_recv(self._sock, _CHUNK_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._sock, self._outgoing.read())
