"""Workers of other users on this host, for root: the runtime folders in /tmp."""

from __future__ import annotations

import os
import pwd
import re
import stat

from torchctl.errors import NoWorkersError, RuntimeDirError
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.find.sockets import in_folder

_FOLDER = re.compile(r"torchctl-(\d{1,10})")
EVERYBODY = "all"


def in_runtime_dirs_of(user: str, root: str = "/tmp") -> list[Endpoint]:
    """Return the sockets in a user's runtime folder, or in every user's for "all".

    A folder counts only if it is a real folder, belongs to the uid in its name, and is closed to others.

    Raises:
        NoWorkersError: there is no such user, or no socket.
        RuntimeDirError: we may not read the folder.
    """
    uid = None if user == EVERYBODY else _uid(user)
    found: list[Endpoint] = []
    for entry in os.scandir(root):
        match = _FOLDER.fullmatch(entry.name)
        if match is None or uid not in (None, int(match[1])):
            continue
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == int(match[1]) and not status.st_mode & 0o077:
            found += _look(entry.path)
    if not found:
        raise NoWorkersError(f"no worker found: no runtime folder of user {user} in {root} has a socket")
    return found


def _look(path: str) -> list[Endpoint]:
    try:
        return in_folder(path, found=True)
    except PermissionError:
        raise RuntimeDirError(f"{path} cannot be read", hint="only root can use --user for other users") from None


def _uid(user: str) -> int:
    try:
        return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise NoWorkersError(f"there is no user {user!r} on this host", hint="") from None
