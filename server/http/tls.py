"""TLS on the server's side. Imported only by a server that was given a certificate."""

from __future__ import annotations

import socket
import ssl

from torchctl.errors import ServerError
from torchctl.protocol.secretfile import check_secret_file

_HANDSHAKE_RECORD = b"\x16"  # RFC 8446 5.1: what the first byte of a TLS client is


class ServerTls:
    """A certificate and its key.

    Args:
        cert: path of the certificate with its chain, PEM.
        key: path of its private key, PEM, without a passphrase, closed to others.

    Raises:
        ServerError: they cannot be read, or do not belong together.
        SecretFileError: the key is open to others.
    """

    def __init__(self, cert: str, key: str) -> None:
        check_secret_file(key, "the TLS key")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL before 3.0 would let clients ask for it for ever
        self._context.num_tickets = 0  # nobody resumes, and a client that only sends would never read them
        try:
            self._context.load_cert_chain(cert, key, password=lambda: "")  # without it OpenSSL asks on the terminal
        except (OSError, ValueError) as error:
            reason = error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
            raise ServerError(
                f"the TLS certificate {cert} and key {key} cannot be used: {reason}",
                hint="both are PEM files; the key belongs to the certificate and has no passphrase",
            ) from error

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return the connection as TLS; `connection` is empty afterwards. The handshake is still to come."""
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


def is_tls(connection: socket.socket) -> bool:
    """Whether a client begins with TLS; waits for its first byte, as long as the socket's timeout.

    Raises:
        OSError: nothing comes, TimeoutError among them, or the client has gone.
    """
    first = connection.recv(1, socket.MSG_PEEK)
    if not first:
        raise ConnectionResetError("closed without a byte")
    return first == _HANDSHAKE_RECORD
