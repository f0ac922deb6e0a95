"""The folder where this user's workers put their sockets, and whether it can be trusted.

Worker and command line follow the same rule: `TORCHCTL_RUNTIME_DIR`, else `/tmp/torchctl-<uid>`. /tmp is open to all
users, so the folder is trusted only if it is a real folder, ours, and closed to others. The check uses lstat, since a
link could point anywhere.
"""

from __future__ import annotations

import os
import stat

from torchctl.errors import RuntimeDirError

RUNTIME_DIR_VARIABLE = "TORCHCTL_RUNTIME_DIR"


def runtime_dir() -> str:
    """Return the path of this user's runtime folder; it need not exist."""
    return os.environ.get(RUNTIME_DIR_VARIABLE) or f"/tmp/torchctl-{os.getuid()}"


def check_runtime_dir(path: str) -> bool:
    """Return True if the folder can be trusted, False if it does not exist.

    Raises:
        RuntimeDirError: it is a link, not a folder, not ours, or open to group or others.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RuntimeDirError(f"cannot read the runtime folder {path}: {error.strerror}") from error
    hint = f"remove it, or set another folder in {RUNTIME_DIR_VARIABLE}"
    if stat.S_ISLNK(status.st_mode):
        raise RuntimeDirError(f"the runtime folder {path} is a symbolic link; refusing to follow it", hint=hint)
    if not stat.S_ISDIR(status.st_mode):
        raise RuntimeDirError(f"the runtime folder {path} is not a folder", hint=hint)
    if status.st_uid != os.getuid():
        raise RuntimeDirError(f"the runtime folder {path} belongs to uid {status.st_uid}, not to you", hint=hint)
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise RuntimeDirError(
            f"the runtime folder {path} is open to others (mode {mode:04o})", hint=f"chmod 700 {path}"
        )
    return True


def make_runtime_dir(path: str) -> None:
    """Create the folder with mode 0700 if it is missing, and check it.

    Raises:
        RuntimeDirError: as `check_runtime_dir`, or it cannot be created.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise RuntimeDirError(f"cannot create the runtime folder {path}: {error.strerror}") from error
    check_runtime_dir(path)
