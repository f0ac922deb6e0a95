"""What a server was told about who may ask: its arguments, and where they are silent the environment."""

from __future__ import annotations

import os
from typing import NamedTuple

from torchctl import protocol
from torchctl.errors import ServerError
from torchctl.server.http.gate import Gate


class Policy(NamedTuple):
    """The arguments of `WorkerServer` and `worker_main` that say who may ask for what.

    Attributes:
        read_only: switch off the handlers that change or cost something; also by TORCHCTL_READ_ONLY.
        token_file: path of the file with the token for TCP, closed to others; else TORCHCTL_TOKEN_FILE names it, else
            TORCHCTL_TOKEN is the token.
        tls_cert, tls_key: paths of PEM files, for TLS on TCP; else TORCHCTL_TLS_CERT and TORCHCTL_TLS_KEY.
    """

    read_only: bool = False
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def unix_gate(self) -> Gate:
        """Return the rules of a Unix socket: its owner and root, without a token."""
        return Gate(read_only=self._is_read_only())

    def tcp_gate(self) -> Gate:
        """Return the rules of TCP.

        Raises:
            ServerError: the token, or certificate and key, cannot be used.
            SecretFileError: token or key are open to others.
        """
        cert = self.tls_cert or os.environ.get(protocol.TLS_CERT_VARIABLE, "")
        key = self.tls_key or os.environ.get(protocol.TLS_KEY_VARIABLE, "")
        if bool(cert) != bool(key):
            raise ServerError("TLS needs both a certificate and its key, and one of them is missing")
        tls = None
        if cert:
            from torchctl.server.http.tls import ServerTls

            tls = ServerTls(cert, key)
        return Gate(token=self._token(), tls=tls, read_only=self._is_read_only())

    def _token(self) -> bytes | None:
        path = self.token_file or os.environ.get(protocol.TOKEN_FILE_VARIABLE, "")
        if path:
            from torchctl.protocol.secretfile import read_token_file

            return read_token_file(path).encode("ascii")
        token = os.environ.get(protocol.TOKEN_VARIABLE, "").strip()
        if not token:
            return None
        problem = protocol.token_problem(token)
        if problem:
            raise ServerError(f"{protocol.TOKEN_VARIABLE} {problem}", hint=protocol.TOKEN_HINT)
        return token.encode("ascii")

    def _is_read_only(self) -> bool:
        return self.read_only or os.environ.get(protocol.READ_ONLY_VARIABLE, "") not in ("", "0")
