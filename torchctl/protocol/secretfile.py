"""Files that hold a token or a key: refused if they are open to others."""

from __future__ import annotations

import os
import stat

from torchctl import protocol
from torchctl.errors import SecretFileError

_MAX_BYTES = 4096  # of a token file


def read_token_file(path: str) -> str:
    """Return the token in a file, without the line ending.

    Raises:
        SecretFileError: the file cannot be read, is open to others, or does not hold a usable token.
    """
    try:
        with open(path, "rb") as file:
            _check(os.fstat(file.fileno()), path, "the token file")
            text = file.read(_MAX_BYTES + 1).decode("latin-1").strip()
    except OSError as error:
        raise SecretFileError(f"the token file {path} cannot be read: {error.strerror}") from error
    problem = protocol.token_problem(text) if len(text) <= _MAX_BYTES else f"is longer than {_MAX_BYTES} bytes"
    if problem:
        raise SecretFileError(f"the token in {path} {problem}", hint=protocol.TOKEN_HINT)
    return text


def check_secret_file(path: str, what: str) -> None:
    """Check that a file is ours or root's and closed to others.

    Args:
        what: what to call it in a message, "the TLS key".

    Raises:
        SecretFileError: it is not, or does not exist.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise SecretFileError(f"{what} {path} cannot be read: {error.strerror}") from error
    _check(status, path, what)


def _check(status: os.stat_result, path: str, what: str) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):  # a pipe: --token-file <(command)
        raise SecretFileError(f"{what} {path} is not a regular file")
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise SecretFileError(f"{what} {path} belongs to uid {status.st_uid}, neither to you nor to root")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretFileError(f"{what} {path} is open to others (mode {mode:04o})", hint=f"chmod 600 {path}")
