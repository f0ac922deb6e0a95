"""Files that the operator asked for, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from torchctl.errors import TorchctlError


def write_file(path: str, content: bytes) -> None:
    """Write a file atomically; an interrupted run leaves the old file, or none.

    Raises:
        TorchctlError: the folder is missing, not writable or full.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device, such as /dev/null
        with _named_failure(path), open(path, "wb") as stream:
            stream.write(content)
        return
    with _named_failure(path):
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".torchctl-")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


@contextlib.contextmanager
def _named_failure(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another path for --output"
        raise TorchctlError(f"cannot write {path}: {error.strerror}", hint=hint) from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
