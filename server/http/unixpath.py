"""The socket file of a Unix listener: its path, its creation, and when it may replace an old file.

How this works: a file left by a killed process refuses connections; only such a file is replaced. Check,
removal and bind happen under a lock on the folder, since two ranks that restart at once could otherwise
each remove the other's new socket. The lock ends with its descriptor and leaves no file behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator

from torchctl import protocol
from torchctl.errors import AddressInUseError, ServerError
from torchctl.process.peer import peer_of
from torchctl.process.samples import start_ticks

_LOCK_TIMEOUT_S = 10.0  # its holder needs a millisecond, or seconds on a very busy machine
Identity = tuple[int, int]  # device and inode


def bind(listening: socket.socket, path: str) -> Identity:
    """Bind to `path` with mode 0600 from the start, replacing a stale socket file.

    Returns:
        The file's device and inode, for `unlink`.

    Raises:
        ServerError: the path is too long, its folder is missing, or something that is not a socket is there.
        AddressInUseError: a live server listens there; the message names its owner.
    """
    _check_length(path)
    os.fchmod(listening.fileno(), 0o600)  # the file takes the socket's mode: no moment with a wider one
    try:
        with _folder_locked(os.path.dirname(path) or "."):
            _remove_stale(path)
            listening.bind(path)
            status = os.lstat(path)
    except OSError as error:
        raise ServerError(
            f"cannot listen on {path}: {error.strerror}", hint="check that the folder exists and is writable"
        ) from error
    return status.st_dev, status.st_ino


def unlink(path: str, identity: Identity) -> None:
    """Remove the socket file if it is still the one that `bind` created."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == identity:
            os.unlink(path)


def is_stale(path: str) -> bool:
    """Return whether no process listens at a socket file: the kernel refuses the connection."""
    return _owner(path) is None


def _check_length(path: str) -> None:
    size = len(os.fsencode(path))
    if size == 0 or "\0" in path:
        raise ServerError("a socket path cannot be empty or hold a NUL character")
    if size > protocol.MAX_SOCKET_PATH_BYTES:
        raise ServerError(
            f"the socket path has {size} bytes; the system allows {protocol.MAX_SOCKET_PATH_BYTES}: {path}",
            hint="use a shorter folder, such as /tmp",
        )


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ServerError(f"{path} exists and is not a socket; it was left alone", hint="choose another path")
    owner = _owner(path)
    if owner is not None:
        raise AddressInUseError(f"a live server already listens on {path}: {owner}")
    os.unlink(path)


def _owner(path: str) -> str | None:
    """Return who listens at a socket file, in words, or None if no one does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return None
        except BlockingIOError:
            return "an unknown process, whose backlog is full"
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return "an unknown process, with a different type of socket"
            raise
        pid, uid = peer_of(probe)
    if pid and start_ticks(pid) is None and os.path.exists("/proc/self/stat"):
        return None  # the listener has died: only its sentinel still holds the socket, and is about to release it
    return f"pid {pid} (uid {uid}{_command_of(pid)})"


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f", {file.read().strip()}"
    except OSError:
        return ""


@contextlib.contextmanager
def _folder_locked(folder: str) -> Iterator[None]:
    """Hold the folder's lock; go on without it if the file system has no locks or the holder is stuck."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)
