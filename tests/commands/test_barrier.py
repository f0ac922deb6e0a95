"""`torchctl barrier` against live stores: what it prints, how it exits, and what it leaves in the store."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.storejobs import Child, store_host, torchctl, until_counter
from tests.stores import connect, host_store
from torchctl.cli import cli
from torchctl.errors import StoreError, StoreInterruptedError
from torchctl.storeutil import barrier, create_c10d_store, get_free_port
from torchctl.storeutil.joining import join_barrier

pytestmark = pytest.mark.torch


@pytest.fixture
def server() -> Iterator[Any]:
    yield host_store()


def run(*args: str, text: str | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, ["barrier", *args], input=text)


def test_it_joins_waits_and_says_how_long(server: Any) -> None:
    other = threading.Thread(target=barrier, args=(connect(server), 2, "torchctl/barrier", 30), daemon=True)
    other.start()
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "2")
    other.join(10)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("barrier `torchctl/barrier` passed after 0.")
    assert result.stdout.endswith(" s, 2 ranks\n")


def test_count_stands_in_for_several_ranks(server: Any) -> None:
    other = threading.Thread(target=barrier, args=(connect(server), 4, "x", 30), daemon=True)
    other.start()
    result = run(
        "--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--count", "3",
        "--key-prefix", "x", "--json",
    )  # fmt: skip
    other.join(10)
    assert not other.is_alive()
    answer = json.loads(result.stdout)
    assert answer.pop("elapsed_s") < 10
    assert answer == {
        "schema": "torchctl.barrier/1",
        "action": "join",
        "key_prefix": "x",
        "world_size": 4,
        "joined": 3,
        "complete": True,
    }


def test_status_looks_without_joining(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--status", "--key-prefix", "x"]
    assert run(*where).stdout == "barrier `x`: 0 of 4 arrived, not complete; missing: ranks 0-3\n"
    for key in ("x0/TRACE", "x3/TRACE"):
        server.set(key, "")
        server.add("x/num_members", 1)
    assert run(*where).stdout == "barrier `x`: 2 of 4 arrived, not complete; missing: ranks 1-2\n"
    assert json.loads(run(*where, "--json").stdout) == {
        "schema": "torchctl.barrier/1",
        "action": "status",
        "key_prefix": "x",
        "world_size": 4,
        "arrived": 2,
        "complete": False,
        "missing": [1, 2],
    }
    server.add("x/num_members", 1)
    assert run(*where).stdout == (
        "barrier `x`: 3 of 4 arrived, not complete; "
        "1 missing, out of ranks 1-2: 1 of these has arrived without a trace of its rank\n"
    )
    assert json.loads(run(*where, "--json").stdout)["missing"] is None
    server.add("x/num_members", 1)
    server.set("x/last_member", "")
    assert run(*where).stdout == "barrier `x`: 4 of 4 arrived, complete\n"
    assert server.add("x/num_members", 0) == 4


def test_status_does_not_name_ranks_when_nobody_traces(server: Any) -> None:
    server.add("x/num_members", 3)
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--status", "--key-prefix", "x")
    assert result.stdout == (
        "barrier `x`: 3 of 4 arrived, not complete; "
        "1 missing; nobody has left a trace of its rank, so it cannot be named\n"
    )


def test_release_asks_says_what_it_wrote_and_lets_them_go(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--release", "--key-prefix", "x"]
    nobody = run(*where, "--prefix", "ns")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert "nobody has arrived at a barrier `x`; nothing was written" in nobody.stderr
    server.add("x/num_members", 2)
    no = run(*where, text="n\n")
    assert (no.exit_code, no.stdout) == (1, "")
    assert no.stderr.endswith("torchctl: not confirmed: nothing was written\n")
    assert "barrier `x`: 2 of 3 arrived, not complete" in no.stderr
    assert not server.check(["x/last_member"])
    yes = run(*where, text="y\n")
    assert (yes.exit_code, yes.stdout) == (0, "wrote x/last_member: 2 of 3 are released\n")
    assert server.check(["x/last_member"])
    again = run(*where, "--yes")
    assert again.exit_code == 1
    assert "released already" in again.stderr


def test_release_in_a_namespace_names_the_whole_key(server: Any) -> None:
    server.add("ns/x/num_members", 1)
    result = run(
        "--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--release", "--yes",
        "--key-prefix", "x", "--prefix", "ns", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["wrote"] == "ns/x/last_member"
    assert server.check(["ns/x/last_member"])


def test_a_used_prefix_is_refused_and_the_next_free_one_named(server: Any) -> None:
    for key in ("x/last_member", "x/2//num_members"):
        server.set(key, "1")
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "torchctl: barrier `x` has been used: everybody would pass at once\n  the next free one is --key-prefix x/3/\n"
    )


def test_more_than_the_world_are_refused(server: Any) -> None:
    server.add("x/num_members", 3)
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "2", "--key-prefix", "x")
    assert result.exit_code == 1
    assert "3 have arrived already, no room for 1 more in a world of 2" in result.stderr
    assert server.add("x/num_members", 0) == 3


def test_a_rank_that_has_arrived_is_refused(server: Any) -> None:
    server.add("x/num_members", 1)
    server.set("x1/TRACE", "")
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x", "--rank", "1")
    assert result.exit_code == 1
    assert "rank 1 has already arrived" in result.stderr


def test_a_timeout_names_the_missing_and_takes_the_arrival_back(server: Any) -> None:
    server.add("x/num_members", 1)
    server.set("x0/TRACE", "")
    result = run(
        "--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--key-prefix", "x", "--rank", "2",
        "--timeout", "0.5",
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == (
        "arrived 2 of 4, 0 s\n"
        "torchctl: barrier `x`: 2 of 4 arrived within 0.5 s, ours included; missing: ranks 1,3\n"
        "  our arrival was taken back, 1 waits on; `torchctl barrier --release` lets the waiting ranks go\n"
    )
    assert server.add("x/num_members", 0) == 1
    assert not server.check(["x2/TRACE"])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--world-size", "2"], "--store HOST:PORT is missing"),
        (["--store", "nowhere", "--world-size", "2"], "'nowhere' is not HOST:PORT"),
        (["--store", "::1:1", "--world-size", "2"], "or [::1]:25000 for IPv6"),
        (["--store", "h:99999", "--world-size", "2"], "no TCP port: 1 to 65535"),
        (["--store", "h:1", "--world-size", "2", "--rank", "2"], "--rank 2 is not below --world-size 2"),
        (["--store", "h:1", "--world-size", "2", "--count", "3"], "--count 3 is over --world-size 2"),
        (["--store", "h:1", "--world-size", "2", "--count", "2", "--rank", "0"], "leave it out with --count"),
        (["--store", "h:1", "--world-size", "2", "--status", "--release"], "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(args: list[str], sentence: str) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("127.0.0.1", "refused the connection: nobody listens there"),
        ("no-such-host.invalid", "the host name does not resolve"),
    ],
)
def test_a_typo_fails_before_torch_is_imported(host: str, sentence: str) -> None:
    store = f"{host}:{get_free_port()}"
    command = [sys.executable, "-X", "importtime", "-m", "torchctl", "barrier"]
    with Child(*command, "--store", store, "--world-size", "2") as child:
        code, out, err = child.end()
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert (code, out) == (3, "")
    assert sentence in err
    assert "torchctl.storeutil.session" in imported and "torch" not in imported


def test_a_port_that_is_no_store_is_named() -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        result = run("--store", f"127.0.0.1:{silent.getsockname()[1]}", "--world-size", "2")
    assert result.exit_code == 3
    assert "answered as a TCPStore within 5 s" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_takes_its_arrival_back_soon(server: Any, number: signal.Signals) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x"]
    with torchctl("barrier", *where, "--rank", "1") as child:
        server.wait(["x1/TRACE"])
        child.signal(number)
        assert until_counter(server, "x/num_members", 0) < 5
        code, out, err = child.end()
    assert (code, out) == (130, "")
    assert "our arrival was taken back, 0 wait on" in err
    assert "Traceback" not in err
    assert not server.check(["x1/TRACE"])


def test_an_arrival_that_has_released_others_stays() -> None:
    """The last has come, so the counter is full, and is just about to let everybody go."""
    server = host_store()
    stop = threading.Event()

    def last_comes(arrived: int, elapsed_s: float) -> None:
        server.add("x/num_members", 1)
        stop.set()

    with pytest.raises(StoreInterruptedError, match="our arrival stays: with it 2 of 2 have come, but nobody has let"):
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


def test_a_world_size_that_the_job_contradicts_is_refused_and_never_overwritten(server: Any) -> None:
    server.add("x/num_members", 2)
    server.set("x/TORCHCTL_WORLD_SIZE", "3")
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--key-prefix", "x")
    assert result.exit_code == 1
    assert "the ranks that wait there expect 3, not 4" in result.stderr
    assert (server.get("x/TORCHCTL_WORLD_SIZE"), server.add("x/num_members", 0)) == (b"3", 2)


def test_a_wrong_world_size_does_not_outlive_its_arrival(server: Any) -> None:
    server.add("x/num_members", 1)
    where = ["--store", f"127.0.0.1:{server.port}", "--key-prefix", "x", "--timeout", "0.3"]
    assert run(*where, "--world-size", "4").exit_code == 5
    assert not server.check(["x/TORCHCTL_WORLD_SIZE"])


def test_a_killed_store_ends_the_wait_with_a_sentence() -> None:
    with store_host() as (host, store), torchctl("barrier", "--store", store, "--world-size", "2") as child:
        assert child.error_line() == "arrived 1 of 2, 0 s"
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
        assert child.error_line() == "arrived 1 of 2, 0 s"
        host.signal(signal.SIGSTOP)
        code, out, err = child.end()
        host.signal(signal.SIGCONT)
    assert (code, out) == (5, "")
    assert "gave no answer for 6 s" in err


def test_ctrl_c_with_a_stopped_store_ends_within_half_a_second() -> None:
    with store_host() as (host, store), torchctl("barrier", "--store", store, "--world-size", "2") as child:
        assert child.error_line() == "arrived 1 of 2, 0 s"
        host.signal(signal.SIGSTOP)
        child.signal(signal.SIGINT)
        start = time.monotonic()
        code, out, err = child.end()
        took_s = time.monotonic() - start
        host.signal(signal.SIGCONT)
    assert (code, out) == (130, "")
    assert "does not answer, what was written stays" in err
    assert took_s < 2, "half a second, and a busy machine; waiting for the wind-up would take longer"


def test_a_second_ctrl_c_does_not_keep_the_arrival_from_being_taken_back(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x"]
    with torchctl("barrier", *where) as child:
        assert child.error_line() == "arrived 1 of 3, 0 s"
        child.signal(signal.SIGINT)
        time.sleep(0.05)  # the second is to come in the wind-up, which lasts up to 0.2 s
        child.signal(signal.SIGINT)
        code, out, err = child.end()
    assert (code, out) == (130, "")
    assert "our arrival was taken back, 0 wait on" in err
    assert server.add("x/num_members", 0) == 0


@pytest.mark.parametrize("timeout", ["nan", "inf", "0", "-1"])
def test_a_timeout_that_is_no_time_is_a_usage_error(timeout: str) -> None:
    result = run("--store", "h:1", "--world-size", "2", "--timeout", timeout)
    assert result.exit_code == 2
    assert "is not between 0 and 86400 seconds" in result.stderr


def test_serve_stays_for_those_who_wait_on_after_a_timeout() -> None:
    with torchctl("barrier", "--serve", "--world-size", "3", "--key-prefix", "x", "--timeout", "2") as hosting:
        port = hosting.line().rpartition(":")[2]
        client = create_c10d_store(False, "127.0.0.1", int(port), timeout=20, wait_for_workers=False)
        client.add("x/num_members", 1)
        while hosting.error_line() != "hosting the store for 1 more to leave":
            pass
        assert client.add("x/num_members", 0) == 1, "the store lives on"
        del client
        code, out, err = hosting.end()
    assert (code, out) == (5, "")
    assert "1 waits on" in err


def test_ctrl_c_at_serve_says_that_the_store_ends() -> None:
    with torchctl("barrier", "--serve", "--json", "--world-size", "3", "--key-prefix", "x") as hosting:
        assert hosting.error_line().startswith("hosting the store ")
        assert hosting.error_line() == "arrived 1 of 3, 0 s"
        hosting.signal(signal.SIGINT)
        code, out, err = hosting.end()
    assert (code, out) == (130, "")
    assert err.endswith(" ends with this process\n")


def test_two_that_serve_the_same_address_meet() -> None:
    store = f"127.0.0.1:{get_free_port()}"
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
        while hosting.error_line() != "hosting the store for 1 more to leave":
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


@pytest.mark.parametrize("value", ["no number", "9999999999999999999"])
def test_a_counter_that_is_no_number_is_named(server: Any, value: str) -> None:
    server.set("x/num_members", value)
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "2", "--key-prefix", "x"]
    for args in (["--status"], ["--release", "--yes"], []):
        result = run(*where, *args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"x/num_members is no counter: {value}" in result.stderr


def test_a_world_larger_than_one_request_holds_is_looked_at_and_left(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "140000", "--key-prefix", "x"]
    result = run(*where, "--rank", "139999", "--timeout", "0.3")
    assert result.exit_code == 5
    assert "1 of 140000 arrived within 0.3 s, ours included; missing: ranks 0-139998" in result.stderr
    assert server.add("x/num_members", 0) == 0


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


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_what_cannot_be_a_host_name_is_a_sentence(host: str) -> None:
    result = run("--store", f"{host}:29500", "--world-size", "2")
    assert result.exit_code == 3
    assert "the host name does not resolve" in result.stderr


def test_more_than_the_world_size_are_not_counted_against_it(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "1", "--key-prefix", "x"]
    server.add("x/num_members", 2)
    assert run(*where, "--status").stdout == "barrier `x`: 2 arrived, more than --world-size 1\n"
    assert run(*where, "--release", "--yes").stdout == "wrote x/last_member: 2 are released\n"
