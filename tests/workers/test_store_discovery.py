"""A job's TCPStore: who is registered there, what it may name, and how our server registers."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.certificates import certificates
from tests.processes import python
from torchctl.cli import cli
from torchctl.errors import NoWorkersError, StoreTimeoutError, StoreUnreachableError
from torchctl.server import WorkerServer
from torchctl.server.guest.registration import claim, url_of
from torchctl.workers.find.store import read_store

pytestmark = pytest.mark.torch


@pytest.fixture
def store() -> Iterator[Any]:
    from torch.distributed import TCPStore

    yield TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


@pytest.fixture
def job(store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str, WorkerServer]]:
    """Return a store, its address, and the server of rank 1, registered there."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with WorkerServer("127.0.0.1", 0) as server:
        store.set("debug_server/rank1", f"http://127.0.0.1:{server.port}")
        yield store, f"127.0.0.1:{store.port}", server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def test_registered_workers_answer_and_the_others_are_not_registered(job: tuple[Any, str, WorkerServer]) -> None:
    _, address, server = job
    result = run("ping", "--store", address)
    assert f"127.0.0.1:{server.port}" in result.stdout
    assert result.stderr == "torchctl: ranks 0,2-3: not registered (3)\n"
    assert result.exit_code == 3  # the store is the whole job's: they run on no host that was left out


def test_what_is_no_address_is_that_ranks_failure(
    job: tuple[Any, str, WorkerServer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    store, address, _ = job
    bad = {0: "https://127.0.0.1:1", 2: "http://-oProxyCommand=x:1", 3: "http://127.0.0.1:1/\x1b[2J"}
    for rank, value in bad.items():
        store.set(f"debug_server/rank{rank}", value)
    result = run("ping", "--store", address)
    assert result.exit_code == 3
    assert result.stdout.count("pong") == 1
    for rank in bad:
        assert f"rank {rank}: {address} debug_server/rank{rank} names '" in result.stderr
    assert "\x1b" not in result.stderr
    saved = folder / "hosts"
    listed = run("ps", "--store", address, "--save", str(saved))
    for rank in bad:
        assert re.search(rf"^ +{rank} +bad address +{address} debug_server/rank{rank}", listed.stdout, re.MULTILINE)
    assert "torchctl: 1 worker written to " in listed.stderr
    assert "cannot be written in a host file" not in listed.stderr


def test_a_store_with_a_prefix_of_its_own_and_an_empty_one(job: tuple[Any, str, WorkerServer]) -> None:
    store, address, server = job
    store.set("mine/rank1", f"http://127.0.0.1:{server.port}")
    assert "rank 1  pong" in run("ping", "--store", address, "--prefix", "mine").stdout
    empty = run("ping", "--store", address, "--prefix", "other")
    assert empty.exit_code == 3
    assert f"no worker is registered in the store {address} under other/" in empty.stderr
    assert "TORCHCTL_WORKER_PORT" in empty.stderr


def test_the_token_goes_nowhere_that_only_a_store_has_named(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", "0123456789abcdef")
    with WorkerServer("127.0.0.1", 0) as server:
        store.set("debug_server/rank0", f"http://127.0.0.1:{server.port}")
        kept = run("ping", "--store", f"127.0.0.1:{store.port}")
        sent = run("ping", "--store", f"127.0.0.1:{store.port}", "--trust-store")
    assert (kept.exit_code, "requires a token" in kept.stderr) == (3, True)
    assert (sent.exit_code, sent.stdout.count("pong")) == (0, 1)


def test_with_trust_store_the_token_goes_over_verified_tls_and_nowhere_in_the_clear(
    store: Any, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Two addresses of this host stand for another's: `localhost`, since a name may lead anywhere, and 0.0.0.0."""
    monkeypatch.setenv("TORCHCTL_TOKEN", "0123456789abcdef")
    where = ["ping", "--store", f"127.0.0.1:{store.port}", "--trust-store"]
    pem = certificates(folder / "pem", "localhost")
    with WorkerServer("0.0.0.0", 0) as plain, pem.server("0.0.0.0") as secured:
        store.set("debug_server/rank0", f"http://localhost:{plain.port}")
        store.set("debug_server/rank1", f"http://0.0.0.0:{plain.port}")
        store.set("debug_server/rank2", f"https://localhost:{secured.port}")
        clear, verified = run(*where), run(*where, "--ca", pem.ca)
        other = run(*where, "--ca", certificates(folder / "other", "localhost").ca)
        kept = run(*where[:3], "--ca", pem.ca)
    assert clear.stdout == kept.stdout == other.stdout == ""
    assert "uses TLS; give the CA of its certificate with --ca" in clear.stderr
    assert verified.stdout.count("pong") == 1
    for result in (verified, kept):
        assert result.stderr.count("requires a token, and none was sent: only the store named this address") >= 2
    assert "could not be verified as the worker" in other.stderr


def test_an_address_from_before_a_restart_is_told(job: tuple[Any, str, WorkerServer]) -> None:
    store, address, server = job
    about = {"pid": 4, "start_time": 1.0, "url": f"http://127.0.0.1:{server.port}"}
    store.set("debug_server/torchctl_rank1", json.dumps(about))
    for command in ("ping", "ps"):
        stderr = run(command, "--store", address).stderr
        assert "rank 1: the store's address" in stderr
        assert f"pid 4 registered it, and rank 1 with pid {os.getpid()} answers" in stderr
    store.set("debug_server/torchctl_rank1", json.dumps({**about, "pid": os.getpid()}))
    assert "before a restart" not in run("ping", "--store", address).stderr
    assert "before a restart" in run("ps", "--store", address).stderr  # the start time differs


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (None, "refused the connection: nothing is listening there"),
        (b"x", "is not a TCPStore"),
        (b"", r"nothing on 127.0.0.1:\d+ answered as a TCPStore within [0-9.]+m?s"),
    ],
)
def test_what_is_no_store_is_said_in_time(serve: bytes | None, words: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if serve is not None:
            listener.listen()
        address = ("127.0.0.1", listener.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=words):
            if serve:

                def answer() -> None:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(b"HTTP")

                threading.Thread(target=answer, daemon=True).start()
            read_store(address, "debug_server", time.monotonic() + (5 if serve else 0.5))
        assert time.monotonic() - began < 60


def test_loading_torch_is_not_taken_for_a_silent_store(store: Any) -> None:
    code = (
        "import sys, time\nfrom torchctl.workers.find.store import read_store\n"
        "read_store(('127.0.0.1', int(sys.argv[1])), 'debug_server', time.monotonic() + 0.5)\n"
    )
    command = [sys.executable, "-c", code, str(store.port)]  # where torch is not loaded yet, which takes over a second
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "NoWorkersError: no worker is registered" in result.stderr


def test_a_store_that_falls_silent_after_its_sign_of_life_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opened: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    opened.append(listener.accept()[0])
                    if len(opened) == 1:
                        opened[0].sendall(opened[0].recv(100)[-4:])  # the number of the ping

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = ("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(StoreTimeoutError, match=r"did not answer for \d+ms"):
            read_store(address, "debug_server", time.monotonic() + 0.5)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        for connection in opened:
            connection.close()
    wait_until(lambda: all(one.name != "torchctl-store" for one in threading.enumerate()))


def test_nobody_registered_is_not_waited_for(store: Any) -> None:
    began = time.monotonic()
    with pytest.raises(NoWorkersError):
        read_store(("127.0.0.1", store.port), "debug_server", time.monotonic() + 20)
    assert time.monotonic() - began < 15  # of the 20 s allowed


def test_a_live_address_is_never_overwritten_and_a_dead_one_is(store: Any) -> None:
    with WorkerServer("127.0.0.1", 0) as old, WorkerServer("127.0.0.1", 0) as new:
        first, second = (f"http://127.0.0.1:{server.port}" for server in (old, new))
        assert claim(store, "k", first)
        assert claim(store, "k", first)
        assert not claim(store, "k", second)
        assert store.get("k").decode() == first
        old.shutdown()
        assert claim(store, "k", second)
        assert store.get("k").decode() == second
    store.set("other", "nonsense")
    assert claim(store, "other", first)


def test_the_registered_name_is_one_that_others_can_reach() -> None:
    assert url_of("", 7) == "http://127.0.0.1:7"
    assert url_of("0.0.0.0", 7) == f"http://{socket.gethostname()}:7"
    assert url_of("::1", 7) == "http://[::1]:7"
    assert url_of("node1", 7) == "http://node1:7"


WORKER = """
import os, sys
from torchctl.server import worker_main
import torch.distributed as dist
with worker_main():
    print("up", flush=True)
    sys.stdin.readline()
    dist.init_process_group("gloo", init_method="env://")
    print("initialised", flush=True)
    sys.stdin.readline()
    dist.destroy_process_group()
print("ended", flush=True)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("tls", [False, True])
def test_our_server_registers_once_torch_distributed_is_there(store: Any, folder: Path, tls: bool) -> None:
    pem = certificates(folder / "pem", "127.0.0.1")
    secured = {"TORCHCTL_TLS_CERT": pem.cert, "TORCHCTL_TLS_KEY": pem.key} if tls else {}
    environment = {
        **secured,
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHCTL_WORKER_PORT": "{local_rank}",
    }
    with python(WORKER, environment) as worker:
        worker.wait_for("up")
        assert not store.check(["debug_server/rank0"])
        worker.tell("")
        worker.wait_for("initialised")
        wait_until(lambda: bool(store.check(["debug_server/torchctl_rank0"])))
        where = ["--store", f"127.0.0.1:{store.port}", "--timeout", "20", *(["--ca", pem.ca] if tls else [])]
        result = run("ps", *where, "--json")
        assert result.stderr == ""
        assert store.get("debug_server/rank0").startswith(b"https://" if tls else b"http://")
        (found,) = json.loads(result.stdout)["workers"]
        assert (found["rank"], found["pid"]) == (0, worker.pid)
        worker.tell("")
        worker.wait_for("ended")
        assert worker.finish()[2] == ""


def test_nothing_is_registered_without_a_port_or_a_store(folder: Path) -> None:
    code = (
        "import threading\nfrom torchctl.server import worker_main\n"
        "with worker_main():\n    print(sorted({t.name for t in threading.enumerate()}))\n"
    )
    for environment, names in (
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "['MainThread', 'torchctl-accept']"),
        ({"TORCHCTL_WORKER_PORT": "0"}, "['MainThread', 'torchctl-accept']"),
        (
            {"TORCHCTL_WORKER_PORT": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "['MainThread', 'torchctl-accept', 'torchctl-register']",
        ),
    ):
        with python(code, environment) as process:
            assert process.finish() == (0, f"{names}\n", "")
    with python(code, {"TORCHCTL_WORKER_PORT": "99999"}) as process:
        code_, out, err = process.finish()
    assert (code_, out) == (0, "['MainThread', 'torchctl-accept']\n")
    assert "which is not a TCP port" in err
