"""Writes the files that the operator asked for, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator

from torchctl.errors import TorchctlError

_HINT = "choose another path for --output"


def write_file(path: str, content: bytes, *, hint: str = _HINT) -> None:
    """Write a file atomically: an interrupted run leaves the old file, or none.

    Raises:
        TorchctlError: the folder is missing, not writable or full; or the path is a pipe or a folder.
    """
    if _is_device(path, hint):
        with _named_failure(path, hint), open(path, "wb") as stream:
            stream.write(content)
        return
    with _named_failure(path, hint):
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".torchctl-")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def _is_device(path: str, hint: str) -> bool:
    """Whether to write through to a character device, such as /dev/null."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        raise TorchctlError(f"{path} exists and is not a regular file", hint=hint)
    return stat.S_ISCHR(mode)


@contextlib.contextmanager
def _named_failure(path: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TorchctlError(f"{path} cannot be written: {error.strerror}", hint=hint) from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
