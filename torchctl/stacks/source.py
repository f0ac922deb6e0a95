"""Source lines of a worker's stack, if the file is readable here too."""

from __future__ import annotations

import os
import stat
from functools import lru_cache

_MAX_FILE_BYTES = 8 << 20  # larger than any source file; a path that a worker sent may name anything
_MAX_LINE_CHARS = 200


def source_line(path: str, line: int) -> str:
    """Return one line of a source file without its indentation, or "" if it cannot be read here.

    Args:
        path: absolute path of a Python file. A worker sent it, so only regular files of moderate size are opened,
            never a device or a pipe.
        line: counted from 1.
    """
    lines = _lines(path)
    return lines[line - 1].strip()[:_MAX_LINE_CHARS] if 0 < line <= len(lines) else ""


@lru_cache(maxsize=256)
def _lines(path: str) -> list[str]:
    if not (os.path.isabs(path) and path.endswith((".py", ".pyw"))) or "\0" in path:
        return []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
                return []
            return file.read(_MAX_FILE_BYTES).splitlines()
    except (OSError, ValueError):
        return []
