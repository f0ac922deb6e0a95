"""`torchctl barrier` when the wait does not end well: interrupted, the store killed or stopped, a store hosted here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.ports import unused_port
from tests.storejobs import store_host, torchctl, until_counter
from tests.stores import connect, host_store
from torchctl.cli import cli
from torchctl.errors import StoreError, StoreInterruptedError
from torchctl.storeutil import create_c10d_store
from torchctl.storeutil.operator.barrier import join_barrier

pytestmark = pytest.mark.torch


@pytest.fixture
def server() -> Iterator[Any]:
    yield host_store()


def run(*args: str, text: str | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, ["barrier", *args], input=text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_takes_its_arrival_back_soon(server: Any, number: signal.Signals) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x"]
    with torchctl("barrier", *where, "--rank", "1") as child:
        server.wait(["x1/TRACE"])
        child.signal(number)
        assert until_counter(server, "x/num_members", 0) < 5
        code, out, err = child.end()
    assert (code, out) == (130, "")
    assert "our arrival was withdrawn; 0 are still waiting" in err
    assert "Traceback" not in err
    assert not server.check(["x1/TRACE"])


def test_an_arrival_that_has_released_others_stays() -> None:
    """The last has come, so the counter is full, and is just about to let everybody go."""
    server = host_store()
    stop = threading.Event()

    def last_comes(arrived: int, elapsed_s: float) -> None:
        server.add("x/num_members", 1)
        stop.set()

    with pytest.raises(StoreInterruptedError, match="our arrival stays: 2 of 2 have arrived, but no one has rel"):
        join_barrier(connect(server), 2, "x", timeout_s=30, stop=stop, progress=last_comes)
    assert server.add("x/num_members", 0) == 2
    assert not server.check(["x/last_member"])


class Crowded:
    """A store at which two more ranks arrive, one on either side of the operator's own arrival."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def add(self, key: str, amount: int) -> int:
        if amount == 2:
            self.store.add(key, 1)
        value: int = self.store.add(key, amount)
        if amount == 2:
            self.store.add(key, 1)
        return value


def test_the_last_rank_that_came_while_too_many_were_counted_is_let_go() -> None:
    server = host_store()
    server.add("x/num_members", 2)
    with pytest.raises(StoreError, match="no room for 2 more in a world of 4"):
        join_barrier(Crowded(server), 4, "x", timeout_s=30, stop=threading.Event(), count=2)
    assert server.add("x/num_members", 0) == 4
    assert server.check(["x/last_member"])


def test_a_killed_store_ends_the_wait_with_a_sentence() -> None:
    with store_host() as (host, store), torchctl("barrier", "--store", store, "--world-size", "2") as child:
        assert child.error_line() == "arrived 1 of 2, 0s"
        host.signal(signal.SIGKILL)
        code, out, err = child.end()
    assert (code, out) == (3, "")
    assert err.startswith(f"torchctl: the store {store} was lost: ")
    assert "Traceback" not in err and len(err.splitlines()) == 2


def test_a_stopped_store_ends_the_wait_after_the_deadline() -> None:
    with (
        store_host() as (host, store),
        torchctl("barrier", "--store", store, "--world-size", "2", "--timeout", "1") as child,
    ):
        assert child.error_line() == "arrived 1 of 2, 0s"
        host.signal(signal.SIGSTOP)
        code, out, err = child.end()
        host.signal(signal.SIGCONT)
    assert (code, out) == (5, "")
    assert "did not answer for 6s" in err


def test_ctrl_c_with_a_stopped_store_ends_the_command() -> None:
    with store_host() as (host, store), torchctl("barrier", "--store", store, "--world-size", "2") as child:
        assert child.error_line() == "arrived 1 of 2, 0s"
        host.signal(signal.SIGSTOP)
        child.signal(signal.SIGINT)
        start = time.monotonic()
        code, out, err = child.end()
        took_s = time.monotonic() - start
        host.signal(signal.SIGCONT)
    assert (code, out) == (130, "")
    assert "does not answer; anything already written stays" in err
    assert took_s < 2, "half a second, and a busy machine; waiting for the wind-up would take longer"


def test_a_second_ctrl_c_does_not_keep_the_arrival_from_being_taken_back(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x"]
    with torchctl("barrier", *where) as child:
        assert child.error_line() == "arrived 1 of 3, 0s"
        child.signal(signal.SIGINT)
        time.sleep(0.05)  # the second is to come in the wind-up, which lasts up to 0.2 s
        child.signal(signal.SIGINT)
        code, out, err = child.end()
    assert (code, out) == (130, "")
    assert "our arrival was withdrawn; 0 are still waiting" in err
    assert server.add("x/num_members", 0) == 0


def test_serve_stays_for_those_who_wait_on_after_a_timeout() -> None:
    with torchctl("barrier", "--serve", "--world-size", "3", "--key-prefix", "x", "--timeout", "2") as hosting:
        port = hosting.line().rpartition(":")[2]
        client = create_c10d_store(False, "127.0.0.1", int(port), timeout=20, wait_for_workers=False)
        client.add("x/num_members", 1)
        while hosting.error_line() != "hosting the store until 1 more have left":
            pass
        assert client.add("x/num_members", 0) == 1, "the store lives on"
        del client
        code, out, err = hosting.end()
    assert (code, out) == (5, "")
    assert "1 is still waiting" in err


def test_ctrl_c_at_serve_says_that_the_store_ends() -> None:
    with torchctl("barrier", "--serve", "--json", "--world-size", "3", "--key-prefix", "x") as hosting:
        assert hosting.error_line().startswith("hosting the store ")
        assert hosting.error_line() == "arrived 1 of 3, 0s"
        hosting.signal(signal.SIGINT)
        code, out, err = hosting.end()
    assert (code, out) == (130, "")
    assert err.endswith(" ends with this process\n")


def test_two_that_serve_the_same_address_meet() -> None:
    store = f"127.0.0.1:{unused_port()}"
    where = ["--serve", "--store", store, "--world-size", "2", "--key-prefix", "x"]
    with torchctl("barrier", *where) as one, torchctl("barrier", *where) as other:
        ends = [one.end(), other.end()]
    assert [end[0] for end in ends] == [0, 0], ends
    assert [end[1].startswith("barrier `x` passed after") for end in ends] == [True, True]


def test_serve_picks_a_port_prints_it_and_stays_until_the_others_have_left() -> None:
    where = ["--world-size", "2", "--key-prefix", "x"]
    with torchctl("barrier", "--serve", *where) as hosting:
        port = hosting.line().rpartition(":")[2]
        client = create_c10d_store(False, "127.0.0.1", int(port), timeout=20, wait_for_workers=False)
        with torchctl("barrier", "--store", f"127.0.0.1:{port}", *where) as joining:
            code, out, err = joining.end()
        assert (code, err) == (0, "")
        assert hosting.line().startswith("barrier `x` passed after")
        while hosting.error_line() != "hosting the store until 1 more have left":
            pass  # before it has looked, nobody would be left to stay for
        assert client.check(["x/last_member"]), "the store is there while somebody is connected"
        assert hosting.process.poll() is None
        del client
        code, out, err = hosting.end()
    assert (code, out, err) == (0, "", "")


def test_serve_joins_a_store_that_is_there(server: Any) -> None:
    result = run("--serve", "--store", f"127.0.0.1:{server.port}", "--world-size", "1", "--key-prefix", "x")
    assert result.exit_code == 0
    assert server.check(["x/last_member"])


class Failing:
    """A store that refuses to look for the barrier's end."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def wait(self, keys: list[str], timeout: Any = None, /) -> None:
        raise RuntimeError("refused")


def test_an_arrival_is_taken_back_whatever_ends_the_wait(server: Any) -> None:
    with pytest.raises(RuntimeError, match="refused"):
        join_barrier(Failing(server), 2, "x", timeout_s=30, stop=threading.Event())
    assert server.add("x/num_members", 0) == 0
