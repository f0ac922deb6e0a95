"""The options of a worker's server, each explained once for `WorkerServer`, `worker_main` and the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from torchctl import protocol
from torchctl.errors import ServerError
from torchctl.server.http.gate import Gate

if TYPE_CHECKING:
    from torchctl.server.http.tls import ServerTls


class WorkerOptions(NamedTuple):
    """The settings of a server. A tuple, since `dataclasses` would import `inspect` in every rank.

    Attributes:
        read_only: turn off the handlers that change something or are expensive: `torch_profile`, `pyspy_dump`, and
            your own unless they are registered with ``costly=False``. TORCHCTL_READ_ONLY=1 does the same.
        token_file: path of the file with the token for TCP, readable only by its owner. Defaults to
            TORCHCTL_TOKEN_FILE; without either, TORCHCTL_TOKEN is the token.
        tls_cert, tls_key: paths of a certificate and its key (PEM): TCP then requires TLS. Default to
            TORCHCTL_TLS_CERT and TORCHCTL_TLS_KEY.
        sentinel: start a small process beside this one that answers while this one cannot; the first server starts it
            and all servers of the process share it. It does not speak TLS. TORCHCTL_SENTINEL=0 turns it off.
        native_companion: if torch is loaded, also run its C++ server on a private socket, so that the sentinel can
            return traces even while the interpreter lock is held. It starts nine threads.
        record_p2p: record the peer, tag, group and start of every send and receive that has begun but has not been
            waited for; `calls` reports them. TORCHCTL_RECORD_P2P=1 does the same.
        allow_pause: let `pyspy_dump` stop the process while it reads.
    """

    read_only: bool = False
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    sentinel: bool = True
    native_companion: bool = False
    allow_pause: bool = False
    record_p2p: bool = False

    def unix_gate(self) -> Gate:
        """Return the access rules for a Unix socket: its owner and root, without a token."""
        return Gate(read_only=self._is_read_only())

    def tcp_gate(self) -> Gate:
        """Return the access rules for TCP.

        Raises:
            ServerError: the token cannot be used.
            SecretFileError: others can access the token file.
        """
        return Gate(token=self._token(), read_only=self._is_read_only())

    def tcp_tls(self) -> ServerTls | None:
        """Return the TLS settings for TCP, or None for plain HTTP.

        Raises:
            ServerError: the certificate and key cannot be used.
            SecretFileError: others can access the key file.
        """
        cert = self.tls_cert or os.environ.get(protocol.TLS_CERT_VARIABLE, "")
        key = self.tls_key or os.environ.get(protocol.TLS_KEY_VARIABLE, "")
        if bool(cert) != bool(key):
            raise ServerError("TLS needs both a certificate and its key; one of them is missing")
        if not cert:
            return None
        from torchctl.server.http.tls import ServerTls

        return ServerTls(cert, key)

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
        return self.read_only or _is_set(protocol.READ_ONLY_VARIABLE)

    def records_p2p(self) -> bool:
        """Return whether sends and receives are recorded."""
        return self.record_p2p or _is_set(protocol.RECORD_P2P_VARIABLE)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


class Flag(NamedTuple):
    """An option on the command line of `python -m torchctl.server`.

    Attributes:
        field: the field of `WorkerOptions` that it sets.
        is_file: it takes a path; otherwise it takes no value and means yes.
        variable: the environment variable that does the same.
    """

    field: str
    is_file: bool
    help: str
    variable: str

    @property
    def name(self) -> str:
        """Return the flag as typed."""
        return f"--{self.field.replace('_', '-')}"


FLAGS = (
    Flag(
        "read_only",
        False,
        "turn off handlers that change something or are expensive",
        f"{protocol.READ_ONLY_VARIABLE}=1",
    ),
    Flag("record_p2p", False, "record sends and receives not waited for", f"{protocol.RECORD_P2P_VARIABLE}=1"),
    Flag("token_file", True, "a file with the token for TCP, readable only by you", protocol.TOKEN_FILE_VARIABLE),
    Flag("tls_cert", True, "use TLS on TCP, with this certificate (PEM)", protocol.TLS_CERT_VARIABLE),
    Flag("tls_key", True, "the certificate's key (PEM)", protocol.TLS_KEY_VARIABLE),
)


def flags_help() -> str:
    """Return the help for each flag, with its environment variable below it."""
    lines = [(f"{flag.name} FILE" if flag.is_file else flag.name, flag) for flag in FLAGS]
    return "".join(f"  {typed:18} {flag.help}\n  {'':18} [env: {flag.variable}]\n" for typed, flag in lines)


def from_command_line(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Split the arguments into the options that the flags set, by name, and the arguments after the flags."""
    flags = {flag.name: flag for flag in FLAGS}
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest[0].partition("=")
        flag = flags.get(name)
        if flag is not None and not flag.is_file and not equals:
            options[flag.field] = True
        elif flag is not None and flag.is_file and (equals or len(rest) > 1):
            value = value if equals else rest.pop(1)
            options[flag.field] = os.path.abspath(value)  # the script may change its folder
        else:
            break
        del rest[0]
    return options, rest
