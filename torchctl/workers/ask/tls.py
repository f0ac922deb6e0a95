"""TLS on the operator's side: always verified, against one file of authorities. Imported only where `--ca` is given.

How this works: one worker's socket becomes an `ssl` socket that keeps the deadline of the plain one. Many workers are
asked on asyncio's bare sockets, for which the standard library has no TLS: there an `SSLObject` turns what is to be
sent into bytes and bytes into what was received, and this module carries the bytes.
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
    """Return what verifies a worker: signed by an authority in the file `ca` (PEM) and no other, named by its host.

    Raises:
        TorchctlError: the file cannot be read, or holds no certificate.
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
    """One worker's, with one deadline over all its waits."""


def secured(sock: socket.socket, ca: str, host: str, deadline: float) -> socket.socket:
    """Return a connected socket as verified TLS; `sock` is empty afterwards.

    Args:
        host: what the certificate must name: the name or address that the operator typed.
        deadline: `time.monotonic` seconds, of this and of every read and write.

    Raises:
        OSError: the handshake failed; `ssl.SSLCertVerificationError` when the other end is not proved.
    """
    # Not suppress_ragged_eofs: a connection that someone cuts is no end of an answer.
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
    """TLS over a connected non-blocking socket of an asyncio loop; the caller's deadline ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, ca: str, host: str) -> None:
        self._loop = loop
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context(ca).wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def handshake(self) -> None:
        """Prove who the other end is; errors as `secured`."""
        await self._carried(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Send all."""
        await self._carried(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        """Return the next bytes, ``b""`` where the other end says that it is done; a cut connection is an error."""
        try:
            return await self._carried(lambda: self._tls.read(_CHUNK_BYTES))
        except ssl.SSLZeroReturnError:
            return b""

    async def _carried(self, step: Callable[[], T]) -> T:
        """Run one step of TLS, carrying bytes both ways until it is done."""
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
