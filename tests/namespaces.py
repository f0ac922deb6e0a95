"""A small disk in a mount namespace of the test's own: nothing outside of its processes ever sees it."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

REASON = "a mount namespace with a disk of its own cannot be made here"
_MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_small_disk(disk: Path, options: str, *command: str) -> list[str]:
    """Return a command line that runs `command` where `disk` is a tmpfs; skips the test where that cannot be.

    Args:
        options: of the mount, such as ``size=64k,nr_inodes=3``.
    """
    if not _works():
        pytest.skip(REASON)
    return [*_unshare(), "sh", "-c", _MOUNT, "sh", options, str(disk), *command]


def _unshare() -> list[str]:
    return ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]


@functools.cache
def _works() -> bool:
    command = [*_unshare(), "sh", "-c", _MOUNT, "sh", "size=64k", "/mnt", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False
