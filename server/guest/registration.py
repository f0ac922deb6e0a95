"""Register this worker's server address in the job's TCPStore, under the key that torch's debug server uses.

How this works: a daemon thread waits until torch.distributed is initialised, which means that the store is up and torch
is loaded. It first checks that the port speaks the store's protocol, since with anything else listening there torch's
client would wait forever, and noisily. The key is written with compare_set: an address that still answers is never
overwritten; one from before a restart is. If anything fails, the trainer does not notice.

Source: torch/distributed/debug/__init__.py and _store.py (torch 2.13) for the key and its value.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from datetime import timedelta
from typing import Any

from torchctl import protocol
from torchctl.process.samples import start_ticks
from torchctl.process.started import start_time
from torchctl.server.guest import forking, identity, torchlink
from torchctl.server.http.listener import block_signals

_LOOK_S = 1.0  # between checks whether torch.distributed is initialised
_RARE_LOOK_S = 15.0  # after the first ten minutes
_FREQUENT_LOOKS = 600
_TIMEOUT_S = 5.0


class Registration:
    """Registers one TCP server in the background; `stop` ends the wait.

    Args:
        host, port: where the server listens; for a wildcard host this host's name is registered.
        tls: the server speaks TLS, so its URL is https.
    """

    def __init__(self, host: str, port: int, *, tls: bool = False) -> None:
        self._url = url_of(host, port, tls=tls)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._looks = 0
        self._over = False  # registered, or given up

    def start(self) -> None:
        """Start the thread, if the environment names a store."""
        if os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT", "").isdigit():
            forking.watch(self)
            self.resume()

    def stop(self) -> None:
        """End the wait; an existing registration stays."""
        forking.forget(self)
        self._stopped.set()

    def pause(self) -> None:
        """End the waiting thread before a fork."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(protocol.SHUTDOWN_TIMEOUT_S)

    def resume(self) -> None:
        """Keep waiting, unless already registered or given up."""
        if not self._over and (self._thread is None or not self._thread.is_alive()):
            self._stopped.clear()
            self._thread = threading.Thread(target=self._work, name="torchctl-register", daemon=True)
            self._thread.start()

    def release(self) -> None:
        """Do nothing in a forked child: there is nothing to release."""

    def _work(self) -> None:
        block_signals()
        while torchlink.distributed() is None:
            self._looks += 1
            if self._stopped.wait(_LOOK_S if self._looks < _FREQUENT_LOOKS else _RARE_LOOK_S):
                return
        self._over = True
        with contextlib.suppress(Exception):
            self._register(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))

    def _register(self, host: str, port: int) -> None:
        rank = identity.place().rank
        if rank is None:
            return
        from torchctl.storeutil.probe import probe_store

        address = probe_store(host, port, _TIMEOUT_S)
        dist: Any = torchlink.distributed()
        store = dist.TCPStore(
            host_name=address,
            port=port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=_TIMEOUT_S),
        )
        prefix = protocol.STORE_PREFIX
        about = {
            "pid": os.getpid(),
            "start_time": start_time(start_ticks("self")),
            "job_id": identity.job_id(),
            "url": self._url,
        }
        if claim(store, f"{prefix}/rank{rank}", self._url):
            store.set(f"{prefix}/{protocol.STORE_ABOUT}{rank}", protocol.compact_json(about))
        del store  # closes the connection


def claim(store: Any, key: str, url: str) -> bool:
    """Write the address unless the existing one answers; return whether ours is now registered."""
    known = store.get(key).decode("utf-8", "replace") if store.check([key]) else ""
    if known != url and known and _answers(known):
        return False
    return bool(store.compare_set(key, known, url).decode("utf-8", "replace") == url)


def url_of(host: str, port: int, *, tls: bool = False) -> str:
    """Return the ``http://HOST:PORT`` (or https) URL at which others can reach the server."""
    if host in ("", "localhost"):
        host = "127.0.0.1"
    elif host in ("0.0.0.0", "::", "*"):
        host = socket.gethostname()
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def _answers(url: str) -> bool:
    """Return whether a worker server answers at a registered address; even a TLS server answers in plain HTTP."""
    host, _, port = url.partition("://")[2].rpartition(":")
    request = b"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S) as connection:
            connection.sendall(request)
            return connection.recv(9).startswith(b"HTTP/1.")
    except (OSError, ValueError):
        return False
