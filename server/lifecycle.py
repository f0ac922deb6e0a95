"""`worker_main`: run a server for as long as a training script runs, without ever harming the script.

How this works: the address comes from TORCH_WORKER_SERVER_SOCKET, or is in the runtime folder, where the command
line looks. A server that cannot start costs one warning. If torch is already loaded, its error file is written, as
torch's own `worker_main` does with `record`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

from torchctl import protocol
from torchctl.errors import ServerError
from torchctl.process import lastword
from torchctl.protocol import runtimedir, socketnames
from torchctl.server.guest import farewell, identity
from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.http import unixpath
from torchctl.server.options import WorkerOptions
from torchctl.server.worker import WorkerServer

TORCH_WORKER_SERVER_SOCKET = protocol.SOCKET_VARIABLE

_ERRORS = "torch.distributed.elastic.multiprocessing.errors"
_STALE_AFTER_S = 86400.0  # sockets of killed workers stay for a day, so that someone can still see them
_SWEEP_LIMIT = 256  # files looked at per start


@contextlib.contextmanager
def worker_main(
    *,
    read_only: bool = False,
    token_file: str = "",
    tls_cert: str = "",
    tls_key: str = "",
    sentinel: bool = True,
    native_companion: bool = False,
    record_p2p: bool = False,
) -> Iterator[None]:
    """Run the debug server while the body runs: ``with worker_main():`` or ``@worker_main()`` over main.

    The server listens at TORCH_WORKER_SERVER_SOCKET, with ``{rank}``, ``{local_rank}`` and ``{pid}`` filled in.
    If several local ranks share a plain path, local rank 0 uses it and the others use ``PATH.<local_rank>``. If the
    variable is unset, the socket is in the runtime folder; if it is empty, no server starts. For the arguments see
    `torchctl.server.options.WorkerOptions`.

    An exception from the body passes through unchanged. If torch is loaded on entry, the exception is also written
    to torchelastic's error file, as ``torch.distributed.elastic.multiprocessing.errors.record`` does.

    Source: torch/distributed/elastic/control_plane.py (torch 2.13).
    """
    options = WorkerOptions(read_only, token_file, tls_cert, tls_key, sentinel, native_companion, record_p2p=record_p2p)
    with contextlib.ExitStack() as stack, _recorded(), _last_word(start_servers(stack, options)):
        yield


@contextlib.contextmanager
def serve_until_exit(options: WorkerOptions) -> Iterator[None]:
    """Run the debug server while the body runs and until the process exits.

    A program that has ended can still hang: in a thread that is not a daemon, or in a function at exit. Its stacks
    can be read there too, because the server stops after all functions that the program registers with `atexit`.
    """
    stack = contextlib.ExitStack()
    with _recorded(), _last_word(start_servers(stack, options)):
        atexit.register(stack.close)
        yield


@contextlib.contextmanager
def _last_word(address: str | None) -> Iterator[None]:
    """Keep how the body ended, for `torchctl ps` and `torchctl diagnose`, if there is a server."""
    pid = os.getpid()
    try:
        yield
    except BaseException as error:
        if address is not None and os.getpid() == pid:  # a forked child that gets here is not the rank
            farewell.keep(error, address)
        raise
    if address is not None and os.getpid() == pid:
        farewell.keep(None, address)


def start_servers(stack: contextlib.ExitStack, options: WorkerOptions) -> str | None:
    """Start the servers that the environment asks for, and return the address of the one on a Unix socket."""
    server = start_server(options)
    if server is not None:
        stack.enter_context(server)
    start_tcp_server(stack, options)
    return None if server is None else server.address


def start_server(options: WorkerOptions) -> WorkerServer | None:
    """Start the server where the environment says; return None if it is disabled or cannot start."""
    try:
        path = socket_path()
        if path is None:
            return None
        return WorkerServer(path, **options._asdict())
    except Exception as error:
        _warn("no debug server in this process", error)
        return None


def start_tcp_server(stack: contextlib.ExitStack, options: WorkerOptions) -> None:
    """Start a server on TCP too, if TORCHCTL_WORKER_PORT is set, and register it in the job's store.

    TORCHCTL_WORKER_HOST is the interface, by default loopback; any other requires TORCHCTL_TOKEN. Both may contain
    ``{rank}``, ``{local_rank}`` and ``{pid}`` (``25{local_rank}00``); port 0 picks a free one.
    """
    port = os.environ.get(protocol.WORKER_PORT_VARIABLE)
    if not port:
        return
    try:
        from torchctl.server.guest.registration import Registration

        host = _filled_in(os.environ.get(protocol.WORKER_HOST_VARIABLE, ""))
        filled = _filled_in(port)
        if not (filled.isascii() and filled.isdigit() and int(filled) <= 65535):
            raise ServerError(f"{protocol.WORKER_PORT_VARIABLE} is {filled!r}, which is not a TCP port")
        one_native = options._replace(native_companion=False)  # one per process, run by the first server
        server = stack.enter_context(WorkerServer(host, int(filled), **one_native._asdict()))
        registration = Registration(host, server.port, tls=server.tls)
        registration.start()
        stack.callback(registration.stop)
    except Exception as error:
        _warn("no debug server on TCP in this process", error)


def _warn(what: str, error: Exception) -> None:
    import logging  # late: most ranks have nothing to warn about

    logging.getLogger("torchctl.server").warning("torchctl: %s: %s", what, error)


def _filled_in(text: str) -> str:
    return socketnames.filled_in(text, identity.place(), os.getpid())


def socket_path() -> str | None:
    """Return the path for this process's socket, or None if the server is disabled.

    Raises:
        RuntimeDirError: the runtime folder cannot be created or trusted.
    """
    value = os.environ.get(TORCH_WORKER_SERVER_SOCKET)
    if value is None:
        return _path_in_runtime_dir()
    return socketnames.named_by_variable(value, identity.place(), os.getpid()) if value else None


def _path_in_runtime_dir() -> str:
    folder = runtimedir.runtime_dir()
    runtimedir.make_runtime_dir(folder)
    _sweep(folder)
    return os.path.join(folder, socketnames.compose(identity.place().rank, os.getpid()))


def _sweep(folder: str) -> None:
    """Remove socket files that nothing has listened on for a day, and last words of the same age."""
    oldest = time.time() - _STALE_AFTER_S
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_SWEEP_LIMIT), entries, strict=False):
            with contextlib.suppress(OSError):
                is_old = entry.stat(follow_symlinks=False).st_mtime < oldest
                is_socket = entry.name.endswith(socketnames.SUFFIX)
                if is_old and (unixpath.is_stale(entry.path) if is_socket else lastword.is_named_so(entry.name)):
                    os.unlink(entry.path)


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Write what the body raises to torchelastic's error file, if torch is already loaded."""
    errors = _error_module()
    if errors is None:
        yield
        return
    handler = errors.get_error_handler()
    handler.initialize()
    try:
        yield
    except errors.ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        if os.path.exists(failure.error_file):
            handler.dump_error_file(failure.error_file, failure.exitcode)
        raise
    except Exception as error:
        handler.record_exception(error)
        raise


def _error_module() -> Any:
    if loaded("torch") is None or c10d() is None:
        return None
    try:
        return importlib.import_module(_ERRORS)  # part of the loaded torch
    except ImportError:
        return None
