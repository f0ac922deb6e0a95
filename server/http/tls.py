"""Server-side TLS. Imported only by a server that has a certificate."""

from __future__ import annotations

import socket
import ssl

from torchctl.errors import ServerError
from torchctl.protocol.secretfile import check_secret_file
from torchctl.server.http.channel import Channel

_HANDSHAKE_RECORD = b"\x16"  # RFC 8446 5.1: the first byte that a TLS client sends
_CHUNK_BYTES = 65536


class ServerTls:
    """A certificate and its key.

    Args:
        cert: path of the certificate with its chain, PEM.
        key: path of its private key, PEM, without a passphrase, readable only by its owner.

    Raises:
        ServerError: they cannot be read, or do not match.
        SecretFileError: others can access the key file.
    """

    def __init__(self, cert: str, key: str) -> None:
        check_secret_file(key, "the TLS key")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL before 3.0 would let clients renegotiate forever
        self._context.num_tickets = 0  # no one resumes sessions, and a client that only sends would never read them
        try:
            self._context.load_cert_chain(cert, key, password=lambda: "")  # without it OpenSSL asks on the terminal
        except (OSError, ValueError) as error:
            reason = error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
            raise ServerError(
                f"the TLS certificate {cert} and key {key} cannot be used: {reason}",
                hint="both must be PEM files; the key must match the certificate and have no passphrase",
            ) from error

    def over(self, channel: Channel) -> TlsStream:
        """Return TLS over a connection, before the handshake."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return TlsStream(channel, self._context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)


class TlsStream:
    """TLS over a channel, on memory buffers: OpenSSL itself would use the descriptor's number without a check."""

    def __init__(
        self, channel: Channel, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._channel = channel
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing

    def shake_hands(self, deadline: float) -> None:
        """Perform the handshake.

        Raises:
            OSError: the client's TLS is incompatible, or the client was too slow or is gone.
        """
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._exchange(deadline)
            except ssl.SSLError:
                self._flush(deadline)  # the alert with the reason
                raise
            else:
                return self._flush(deadline)

    def receive(self, size: int, deadline: float) -> bytes:
        """Return what arrives before the deadline, or empty bytes if the client has finished sending."""
        while True:
            try:
                return self._session.read(size)
            except ssl.SSLWantReadError:
                self._exchange(deadline)
            except ssl.SSLEOFError:
                return b""  # no close_notify; a request has a length, so a truncated one is still noticed

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._session.write(rest[:_CHUNK_BYTES]) :]
            self._flush(deadline)

    def _exchange(self, deadline: float) -> None:
        """Send TLS's pending output and feed it what arrives."""
        self._flush(deadline)
        data = self._channel.receive(_CHUNK_BYTES, deadline)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self, deadline: float) -> None:
        if self._outgoing.pending:
            self._channel.send(self._outgoing.read(), deadline)


def is_tls(channel: Channel, deadline: float) -> bool:
    """Wait for a client's first byte and return whether it starts TLS.

    Raises:
        OSError: nothing arrives (TimeoutError), or the client is gone.
    """
    first = channel.receive(1, deadline, socket.MSG_PEEK)
    if not first:
        raise ConnectionResetError("closed without sending a byte")
    return first == _HANDSHAKE_RECORD
