"""Creating stores: the right error, and never after the deadline."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest

from tests.ports import unused_port
from tests.stores import host_store, in_threads
from torchctl.storeutil import create_c10d_store, get_free_port, get_socket_with_port
from torchctl.storeutil.probe import NotAStoreError, SilentError, probe_store

pytestmark = pytest.mark.torch
HOST = "127.0.0.1"


@contextmanager
def listener(family: socket.AddressFamily = socket.AF_INET, host: str = HOST) -> Iterator[socket.socket]:
    """Something that accepts connections and says nothing."""
    with closing(socket.socket(family)) as sock:
        sock.bind((host, 0))
        sock.listen()
        yield sock


def test_one_server_alone_picks_its_port() -> None:
    assert create_c10d_store(is_server=True, server_addr=HOST).port > 0


def test_a_world_needs_a_port() -> None:
    with pytest.raises(ValueError, match="server_port must be specified when world_size > 1"):
        create_c10d_store(is_server=True, server_addr=HOST, world_size=2)


@pytest.mark.parametrize("wait_for_workers", [True, False])
def test_server_and_clients_find_each_other(wait_for_workers: bool) -> None:
    port = unused_port()
    stores = in_threads(
        partial(create_c10d_store, rank == 0, HOST, port, 3, timeout=20, wait_for_workers=wait_for_workers)
        for rank in range(3)
    )
    assert not [store for store in stores if isinstance(store, Exception)], stores
    for rank, store in enumerate(stores):
        store.set(f"k{rank}", "v")  # type: ignore[union-attr]
        assert store.timeout.total_seconds() == 20  # type: ignore[union-attr]
    assert stores[0].multi_get(["k0", "k1", "k2"]) == [b"v"] * 3  # type: ignore[union-attr]


def test_a_server_whose_workers_do_not_come_gives_up_at_the_deadline() -> None:
    from torch.distributed import DistStoreError

    start = time.monotonic()
    with pytest.raises(DistStoreError):
        create_c10d_store(is_server=True, server_addr=HOST, server_port=0, world_size=2, timeout=1)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("port", [0, None])
def test_a_client_without_a_server_gives_up_at_the_deadline(port: int | None) -> None:
    from torch.distributed import DistNetworkError

    start = time.monotonic()
    with pytest.raises(DistNetworkError, match=r"no TCPStore at 127.0.0.1:\d+ within 1s: Connection refused"):
        create_c10d_store(
            is_server=False, server_addr=HOST, server_port=get_free_port() if port is None else port,
            world_size=2, timeout=1,
        )  # fmt: skip
    assert 0.8 < time.monotonic() - start < 60


def test_a_listener_that_is_no_store_ends_at_the_deadline_and_leaves_nothing() -> None:
    from torch.distributed import DistNetworkError

    with listener() as sock:
        threads = threading.active_count()
        start = time.monotonic()
        with pytest.raises(DistNetworkError, match=r"within 1s: nothing on .* answered as a TCPStore"):
            create_c10d_store(is_server=False, server_addr=HOST, server_port=sock.getsockname()[1], timeout=1)
        assert time.monotonic() - start < 60
        assert threading.active_count() == threads
        connection, _ = sock.accept()
        with closing(connection):
            connection.settimeout(5)
            while connection.recv(100):
                pass  # the greeting, then the end: our side is closed


def test_a_name_that_does_not_resolve_ends_at_the_deadline() -> None:
    from torch.distributed import DistNetworkError

    with pytest.raises(DistNetworkError, match=r"no TCPStore at no-such-host.invalid:1"):
        create_c10d_store(is_server=False, server_addr="no-such-host.invalid", server_port=1, timeout=0.5)


def test_a_client_waits_for_a_server_that_starts_later() -> None:
    port = unused_port()

    def late() -> Any:
        time.sleep(0.5)  # the client must have been refused at least once
        return create_c10d_store(True, HOST, port, 2, timeout=20)

    def early() -> Any:
        return create_c10d_store(False, HOST, port, 2, timeout=20)

    stores = in_threads([late, early])
    assert not [store for store in stores if isinstance(store, Exception)], stores


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    from torch.distributed import DistNetworkError

    server = host_store()
    start = time.monotonic()
    with pytest.raises(DistNetworkError, match="EADDRINUSE"):
        create_c10d_store(is_server=True, server_addr=HOST, server_port=server.port)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(("value", "libuv"), [("0", False), ("1", True), (None, True)])
def test_the_environment_selects_the_backend(monkeypatch: pytest.MonkeyPatch, value: str | None, libuv: bool) -> None:
    monkeypatch.delenv("USE_LIBUV", raising=False)
    if value is not None:
        monkeypatch.setenv("USE_LIBUV", value)
    server = create_c10d_store(True, HOST, 0, timeout=5, wait_for_workers=False)
    assert server.libuvBackend is libuv
    client = create_c10d_store(False, HOST, server.port, timeout=5, wait_for_workers=False)
    client.set("k", "v")
    assert server.get("k") == b"v"


def test_a_socket_with_a_port_holds_it_and_a_free_port_is_free() -> None:
    with closing(get_socket_with_port()) as sock:
        taken = sock.getsockname()[1]
        with closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, taken))
    with closing(socket.socket()) as other:
        other.bind((HOST, get_free_port()))


@pytest.mark.parametrize("use_libuv", [True, False])
def test_the_probe_knows_a_store(use_libuv: bool) -> None:
    server = host_store(use_libuv=use_libuv)
    assert probe_store(HOST, server.port, 5) == HOST
    server.set("k", "v")
    assert server.get("k") == b"v"


def test_the_probe_finds_a_store_over_ipv6() -> None:
    server = host_store(host="::1")
    assert probe_store("::1", server.port, 5) == "::1"
    client = create_c10d_store(False, "::1", server.port, timeout=5, wait_for_workers=False)
    client.set("k", "v")
    assert server.get("k") == b"v"


def test_of_several_addresses_the_one_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    server = host_store(host="::1")
    with listener() as silent:
        found = [
            (family, socket.SOCK_STREAM, 6, "", address)
            for family, address in (
                (socket.AF_INET, silent.getsockname()),
                (socket.AF_INET, (HOST, get_free_port())),
                (socket.AF_INET6, ("::1", server.port, 0, 0)),
            )
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        start = time.monotonic()
        assert probe_store("several", server.port, 10) == "::1"
        assert time.monotonic() - start < 60


def test_the_probe_names_what_is_no_store() -> None:
    with listener() as sock:
        port = sock.getsockname()[1]
        with pytest.raises(SilentError, match="within 200ms"):
            probe_store(HOST, port, 0.2)

    def greet(sock: socket.socket) -> None:
        connection, _ = sock.accept()
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.close()

    with listener() as sock:
        thread = threading.Thread(target=greet, args=(sock,))
        thread.start()
        with pytest.raises(NotAStoreError, match="is not a TCPStore"):
            probe_store(HOST, sock.getsockname()[1], 5)
        thread.join(5)
    with pytest.raises(ConnectionRefusedError):
        probe_store(HOST, get_free_port(), 5)
    with pytest.raises(socket.gaierror):
        probe_store("no-such-host.invalid", 1, 5)


def test_the_library_imports_no_torch_and_no_command_line() -> None:
    code = "import sys, torchctl.storeutil; print([m for m in ('torch', 'click', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
