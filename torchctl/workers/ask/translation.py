"""Translate errors from the system and the HTTP libraries into ours; only this module knows them."""

from __future__ import annotations

import errno
import os
import socket
import stat

from torchctl import protocol
from torchctl.errors import (
    AccessDeniedError,
    BusyError,
    CertificateError,
    DeadlineError,
    NoSuchSocketError,
    NotAWorkerError,
    RefusedError,
    UnknownHostError,
    UnreachableError,
    WorkerError,
)
from torchctl.text import duration
from torchctl.workers.endpoint import Endpoint


def translated(cause: BaseException, endpoint: Endpoint, elapsed_s: float, connected: bool) -> WorkerError:
    """Return our error for an error from the system or an HTTP library."""
    where, rank = str(endpoint), endpoint.rank

    def make(kind: type[WorkerError], detail: str) -> WorkerError:
        return kind(detail, endpoint=where, rank=rank)

    if type(cause).__module__ == "ssl":  # compared by name, because most runs never import ssl
        reason = getattr(cause, "verify_message", "")
        if type(cause).__name__ == "SSLEOFError":
            return make(UnreachableError, "closed the connection without a full answer")
        if reason:
            return make(CertificateError, f"could not be verified as the worker: {reason}")
        return make(NotAWorkerError, "failed the TLS handshake; does it use TLS at all?")
    if isinstance(cause, TimeoutError):
        if connected:
            return make(DeadlineError, f"accepted the connection and did not answer within {duration(elapsed_s)}")
        return make(DeadlineError, f"did not accept the connection within {duration(elapsed_s)}")
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return make(NoSuchSocketError, "does not exist")
    if isinstance(cause, ConnectionRefusedError):
        if endpoint.path and not _is_socket(endpoint.path):
            return make(NotAWorkerError, "is not a socket")
        return make(RefusedError, "refused the connection")
    if isinstance(cause, PermissionError) and endpoint.path:
        return make(AccessDeniedError, "cannot be opened by this user")
    if isinstance(cause, socket.gaierror):
        return make(UnknownHostError, f"cannot be resolved: {cause.strerror}")
    if isinstance(cause, BlockingIOError):
        return make(BusyError, "is busy: its queue of waiting connections is full")
    if isinstance(cause, ConnectionResetError | BrokenPipeError):
        return make(UnreachableError, "closed the connection without a full answer")
    if len(os.fsencode(endpoint.path)) > protocol.MAX_SOCKET_PATH_BYTES:
        limit = protocol.MAX_SOCKET_PATH_BYTES
        return make(NoSuchSocketError, f"is too long for a socket path: the system allows {limit} bytes")
    if isinstance(cause, OSError) and cause.errno in (errno.EPROTOTYPE, errno.ENOTSOCK):
        return make(NotAWorkerError, "is a different type of socket")
    if isinstance(cause, OSError):
        return make(UnreachableError, f"cannot be reached: {cause.strerror or cause}")
    return make(NotAWorkerError, "sent something that is not a worker's HTTP answer")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True
