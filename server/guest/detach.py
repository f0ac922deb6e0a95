"""Start a process that is not the trainer's child: no `wait` in the trainer ever sees it, and no SIGCHLD reports it.

How this works: a detached process needs an intermediate process that starts it and exits. If that were an ordinary
child of the trainer, an `os.wait()` on another thread would see it, and its exit would send SIGCHLD, which cuts sleeps
in C short if the trainer handles it. So we create it with `clone` and no exit signal: `wait` looks at such children
only when asked to (``__WCLONE``). It shares our memory, and our thread is suspended until it exits, as with `vfork`, so
nothing is copied however large the trainer is. It runs libc's `system` on a separate stack, with all signals blocked:
no Python code, none of Python's locks, no allocation. With two threads in `os.wait()`, the threads saw none of four
thousand starts; of as many plain shells they saw two thirds.

If that is not possible (another libc, a sandbox that forbids it), we use an ordinary shell for a few milliseconds.

Source: clone(2), wait(2); glibc's sysdeps/posix/system.c, which spawns by `posix_spawn`.
"""

from __future__ import annotations

import mmap
import os
import shlex
import signal
import threading
from collections.abc import Sequence

_STACK_BYTES = 1 << 18
_CLONE_VM = 0x100
_CLONE_FS = 0x200
_CLONE_VFORK = 0x4000
_WCLONE = -0x80000000  # 1 << 31 as the signed number that waitpid takes


def start(arguments: Sequence[str], output: str = os.devnull) -> None:
    """Start a command in the background; its exit status is not reported.

    Takes a few milliseconds, during which the interpreter lock is free. A command that does not exist is not an error.

    Args:
        output: path that its stdout and stderr are written to; stdin is /dev/null.

    Raises:
        OSError: no process can be started.
    """
    # The braces: the output is opened before the shell starts the command in the background.
    command = f"{{ {shlex.join(arguments)} </dev/null & }} >{shlex.quote(output)} 2>&1"
    try:
        os.getcwd()
    except OSError:  # in a deleted folder every shell complains, on the trainer's stderr
        _in_another_folder(command)
    else:
        _run(command)


def _run(command: str) -> None:
    if not _clone(os.fsencode(command)):
        import subprocess  # late: rarely needed

        subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, check=False, close_fds=True)


def _in_another_folder(command: str) -> None:
    """Run a command on a separate thread that first changes to the root folder, for itself only."""
    failures: list[OSError] = []

    def run() -> None:
        try:
            import ctypes

            if ctypes.CDLL(None).unshare(_CLONE_FS):
                return  # forbidden here: do not run the command
            os.chdir("/")
            _run(command)
        except OSError as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name="torchctl-start", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _clone(command: bytes) -> bool:
    """Run a shell command in a child that only we can see; return False if that is not possible."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        clone, system = libc.clone, libc.system
    except (ImportError, OSError, AttributeError):
        return False
    clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    with mmap.mmap(-1, _STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as stack:
        held = (ctypes.c_char * _STACK_BYTES).from_buffer(stack)
        top = (ctypes.addressof(held) + _STACK_BYTES) & ~63
        # A signal handler that ran in the child would run in our memory.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = clone(ctypes.cast(system, ctypes.c_void_p), top, _CLONE_VM | _CLONE_VFORK, command)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        del held
    if pid <= 0:
        return False
    try:
        _, status = os.waitpid(pid, _WCLONE)
    except ChildProcessError:
        return True  # the trainer waits for clones too, and has reaped it
    return status == 0
