"""`torchctl barrier` against live stores: what it prints, how it exits, and what it leaves in the store."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.ports import unused_port
from tests.storejobs import Child
from tests.stores import connect, host_store
from torchctl.cli import cli
from torchctl.storeutil import barrier

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
    assert re.fullmatch(r"barrier `torchctl/barrier` passed after [\d.]+m?s, 2 ranks\n", result.stdout)


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
    assert answer.pop("elapsed_s") < 60
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
        "1 missing, out of ranks 1-2: 1 of these has arrived without leaving a trace of its rank\n"
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
        "barrier `x`: 3 of 4 arrived, not complete; 1 missing; no rank left a trace, so it cannot be identified\n"
    )


def test_release_asks_says_what_it_wrote_and_lets_them_go(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--release", "--key-prefix", "x"]
    nobody = run(*where, "--prefix", "ns")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert "no rank has arrived at barrier `x`; nothing was written" in nobody.stderr
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
    assert "already released" in again.stderr


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
        "torchctl: barrier `x` has already been used: every rank would pass at once\n"
        "  the next free one is --key-prefix x/3/\n"
    )


def test_more_than_the_world_are_refused(server: Any) -> None:
    server.add("x/num_members", 3)
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "2", "--key-prefix", "x")
    assert result.exit_code == 1
    assert "3 have already arrived; there is no room for 1 more in a world of 2" in result.stderr
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
        "arrived 2 of 4, 0s\n"
        "torchctl: barrier `x`: 2 of 4 arrived within 500ms, including us; missing: ranks 1,3\n"
        "  our arrival was withdrawn; 1 is still waiting; `torchctl barrier --release` releases the waiting ranks\n"
    )
    assert server.add("x/num_members", 0) == 1
    assert not server.check(["x2/TRACE"])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--world-size", "2"], "--store HOST:PORT is required"),
        (["--store", "nowhere", "--world-size", "2"], "'nowhere' is not HOST:PORT"),
        (["--store", "::1:1", "--world-size", "2"], "or [::1]:25000 for IPv6"),
        (["--store", "h:99999", "--world-size", "2"], "not a TCP port: 1 to 65535"),
        (["--store", "h:1", "--world-size", "2", "--rank", "2"], "--rank 2 must be less than --world-size 2"),
        (["--store", "h:1", "--world-size", "2", "--count", "3"], "--count 3 must not exceed --world-size 2"),
        (["--store", "h:1", "--world-size", "2", "--count", "2", "--rank", "0"], "do not combine it with --count"),
        (
            ["--store", "h:1", "--world-size", "2", "--status", "--release"],
            "use only one of --status, --release and --serve",
        ),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(args: list[str], sentence: str) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("127.0.0.1", "refused the connection: nothing is listening there"),
        ("no-such-host.invalid", "the host name does not resolve"),
    ],
)
def test_a_typo_fails_before_torch_is_imported(host: str, sentence: str) -> None:
    store = f"{host}:{unused_port()}"
    command = [sys.executable, "-X", "importtime", "-m", "torchctl", "barrier"]
    with Child(*command, "--store", store, "--world-size", "2") as child:
        code, out, err = child.end()
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert (code, out) == (3, "")
    assert sentence in err
    assert "torchctl.storeutil.operator.session" in imported and "torch" not in imported


def test_a_port_that_is_no_store_is_named() -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        result = run("--store", f"127.0.0.1:{silent.getsockname()[1]}", "--world-size", "2")
    assert result.exit_code == 3
    assert "answered as a TCPStore within 5s" in result.stderr


def test_a_world_size_that_the_job_contradicts_is_refused_and_never_overwritten(server: Any) -> None:
    server.add("x/num_members", 2)
    server.set("x/TORCHCTL_WORLD_SIZE", "3")
    result = run("--store", f"127.0.0.1:{server.port}", "--world-size", "4", "--key-prefix", "x")
    assert result.exit_code == 1
    assert "the ranks waiting there expect 3, not 4" in result.stderr
    assert (server.get("x/TORCHCTL_WORLD_SIZE"), server.add("x/num_members", 0)) == (b"3", 2)


def test_a_wrong_world_size_does_not_outlive_its_arrival(server: Any) -> None:
    server.add("x/num_members", 1)
    where = ["--store", f"127.0.0.1:{server.port}", "--key-prefix", "x", "--timeout", "0.3"]
    assert run(*where, "--world-size", "4").exit_code == 5
    assert not server.check(["x/TORCHCTL_WORLD_SIZE"])


@pytest.mark.parametrize("timeout", ["nan", "inf", "0", "-1"])
def test_a_timeout_that_is_no_time_is_a_usage_error(timeout: str) -> None:
    result = run("--store", "h:1", "--world-size", "2", "--timeout", timeout)
    assert result.exit_code == 2
    assert "must be more than 0 and at most 86400 seconds" in result.stderr


@pytest.mark.parametrize("value", ["no number", "9999999999999999999"])
def test_a_counter_that_is_no_number_is_named(server: Any, value: str) -> None:
    server.set("x/num_members", value)
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "2", "--key-prefix", "x"]
    for args in (["--status"], ["--release", "--yes"], []):
        result = run(*where, *args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"x/num_members is not a counter: {value}" in result.stderr


def test_a_world_larger_than_one_request_holds_is_looked_at_and_left(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "140000", "--key-prefix", "x"]
    result = run(*where, "--rank", "139999", "--timeout", "0.3")
    assert result.exit_code == 5
    assert "1 of 140000 arrived within 300ms, including us; missing: ranks 0-139998" in result.stderr
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
