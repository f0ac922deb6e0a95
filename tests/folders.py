"""Folders whose paths are short enough for sockets, and that are gone at the end, whoever still writes there."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder for the block."""
    path = Path(tempfile.mkdtemp(prefix="tc-"))
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder; the sentinel of a worker that was killed may still be writing its last word there."""
    deadline = time.monotonic() + 30
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError:
            if time.monotonic() > deadline:
                raise
