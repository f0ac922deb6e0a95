"""`torchctl store` against live stores."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.listeners import greeting_as_a_store, listening_on_tcp, silent
from tests.storejobs import Child, torchctl
from tests.stores import host_store
from torchctl.cli import cli

pytestmark = pytest.mark.torch


class Runs:
    """Would run a command if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch torchctl-was-here",)


@pytest.fixture(params=[True, False], ids=["libuv", "plain"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield host_store(use_libuv=request.param)


def run(server: Any, name: str, *args: str, text: str | None = None) -> Result:
    where = ["--store", f"127.0.0.1:{server.port}"]
    return CliRunner(env={"COLUMNS": "100"}).invoke(cli, ["store", name, *where, *args], input=text)


def test_keys_are_grouped_with_their_meaning(server: Any) -> None:
    server.add("x/num_members", 3)
    server.set("x/TORCHCTL_WORLD_SIZE", "4")
    for rank in range(3):
        server.set(f"debug_server/rank{rank}", "http://node")
    server.set("lr", "0.1")
    server.set("red\x1b[31m", "[bold]a\x07")
    result = run(server, "keys")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "KEYS NAME MEANING OR VALUE",
        "2 x barrier `x`: 3 of 4 arrived",
        "3 debug_server/rank0-2 torch's debug server: the address of each rank",
        "1 lr 0.1",
        "1 red\\x1b[31m 5b 62 6f 6c 64 5d 61 07",
    ]


def test_a_pattern_selects_and_a_namespace_is_stripped(server: Any) -> None:
    for key in ("ns/a1", "ns/b1", "a1"):
        server.set(key, "v")
    result = run(server, "keys", "a*", "--prefix", "ns", "--json")
    assert json.loads(result.stdout) == {
        "schema": "torchctl.store.keys/1",
        "count": 1,
        "groups": [{"name": "a1", "meaning": None, "keys": ["a1"]}],
    }
    nothing = run(server, "keys", "zz*")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no key matches\n")


def test_at_most_fifty_rows_and_all_prints_every_key(server: Any) -> None:
    names = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    for name in names:
        server.set(name, "1")
        server.set(f"folder/{name}", "text")
    result = run(server, "keys")
    assert len(result.stdout.splitlines()) == 1 + 50
    assert result.stderr == "and 11 more lines; --all prints every key\n"
    every = run(server, "keys", "--all").stdout.splitlines()
    assert len(every) == 120
    assert every[0] == "aa\tcounter\t1"
    assert every[-1].endswith("\ttext\ttext")


def test_get_shows_each_kind(server: Any) -> None:
    server.set("text", "größe\nb")
    server.set("bytes", b"\xff\x00")
    server.add("counter", 7)
    server.set("object", pickle.dumps({"a": Runs()}))
    assert run(server, "get", "text").stdout == "größe\nb\n"
    assert run(server, "get", "bytes").stdout == "000000  ff 00\n"
    assert run(server, "get", "counter").stdout == "7\n"
    assert run(server, "get", "object").stdout == "{'a': <posix.system('touch torchctl-was-here')>}\n"
    assert not Path("torchctl-was-here").exists()
    answer = json.loads(run(server, "get", "bytes", "--json").stdout)
    assert answer == {
        "schema": "torchctl.store.get/1",
        "key": "bytes",
        "kind": "bytes",
        "size_bytes": 2,
        "base64": "/wA=",
        "text": None,
        "shown": None,
    }


def test_a_value_that_only_begins_and_ends_like_a_pickle_is_shown_as_bytes(server: Any) -> None:
    server.set("fake", b"\x80\x03garbage.")
    server.set("real", pickle.dumps([1]))
    shown = "80 03 67 61 72 62 61 67 65 2e"
    assert run(server, "get", "fake").stdout == f"000000  {shown}\n"
    assert json.loads(run(server, "get", "fake", "--json").stdout)["shown"] is None
    every = run(server, "keys", "--all")
    assert (every.exit_code, every.stderr) == (0, "")
    assert f"fake\tpickle\t{shown}\n" in every.stdout and "real\tpickle\t[1]\n" in every.stdout
    table = run(server, "keys").stdout
    assert shown in table and "[1]" in table


@pytest.mark.parametrize("name", ["get", "delete", "wait", "--prefix"])
def test_a_key_that_is_no_text_is_a_usage_error(server: Any, name: str) -> None:
    result = run(server, name, "\udcff") if name != "--prefix" else run(server, "get", "k", "--prefix", "\udcff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "\\udcff is not UTF-8 text" in result.stderr


def test_nothing_waits_for_an_absent_key(server: Any) -> None:
    start = time.monotonic()
    result = run(server, "get", "nope")
    assert time.monotonic() - start < 60  # the store's own get waits for 300 s
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"torchctl: nope is absent from the store 127.0.0.1:{server.port}\n")
    assert run(server, "delete", "nope").exit_code == 1
    late = run(server, "get", "nope", "--wait", "--timeout", "0.3")
    assert (late.exit_code, late.stdout) == (5, "")
    assert "absent after 300ms: nope" in late.stderr


def test_wait_names_what_is_absent_and_ends_when_it_comes(server: Any) -> None:
    server.set("a", "")
    late = run(server, "wait", "a", "b", "--timeout", "0.3")
    assert (late.exit_code, late.stderr) == (5, "waiting for b\ntorchctl: still absent after 300ms: b\n")
    server.set("b", "")
    assert re.fullmatch(r"present after [\d.]+m?s: a, b\n", run(server, "wait", "a", "b").stdout)


def test_set_names_what_it_overwrites(server: Any, tmp_path: Path) -> None:
    assert run(server, "set", "k", "one").stdout == "k: wrote 3 bytes\n"
    assert run(server, "set", "k", "-", text="two!").stdout == "k: wrote 4 bytes, was 'one' (3 bytes)\n"
    (tmp_path / "value").write_bytes(b"\xff\x00")
    assert run(server, "set", "k", f"@{tmp_path}/value").stdout == "k: wrote 2 bytes, was 'two!' (4 bytes)\n"
    assert server.get("k") == b"\xff\x00"
    missing = run(server, "set", "k", f"@{tmp_path}/nothing")
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr


def test_torchs_own_keys_are_changed_only_after_a_yes(server: Any) -> None:
    server.add("x/num_members", 2)
    no = run(server, "set", "x/num_members", "5", text="n\n")
    assert (no.exit_code, no.stdout) == (1, "")
    assert "x/num_members is torch's own (a barrier's key). Set it? [y/N]" in no.stderr
    assert server.get("x/num_members") == b"2"
    assert run(server, "delete", "x/num_members", text="n\n").exit_code == 1
    assert server.check(["x/num_members"])
    yes = run(server, "delete", "x/num_members", "--yes")
    assert (yes.exit_code, yes.stdout) == (0, "x/num_members: deleted, was '2' (1 byte)\n")
    assert not server.check(["x/num_members"])


def test_add_counts_and_refuses_what_is_no_counter(server: Any) -> None:
    assert run(server, "add", "c", "5").stdout == "c: 5, was absent\n"
    assert run(server, "add", "c", "--", "-2").stdout == "c: 3, was 5\n"
    server.set("t", "text")
    refused = run(server, "add", "t", "1")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "t is not a counter: 'text' (4 bytes); nothing was added" in refused.stderr
    assert server.get("t") == b"text"


def test_ipv6_and_a_namespace_serve() -> None:
    server = host_store(host="::1")
    server.set("ns/k", "v")
    where = ["--store", f"[::1]:{server.port}", "--prefix", "ns"]
    assert CliRunner().invoke(cli, ["store", "get", *where, "k"]).stdout == "v\n"


def test_torchs_own_lines_never_reach_the_screen() -> None:
    server = host_store()
    with torchctl("store", "get", "--store", f"127.0.0.1:{server.port}", "nope", "--wait", "--timeout", "0.5") as child:
        code, out, err = child.end()
    assert (code, out, err) == (5, "", "waiting for nope\ntorchctl: still absent after 500ms: nope\n")


def test_numbers_beyond_64_bits_are_no_counters(server: Any) -> None:
    server.set("big", "9999999999999999999")
    server.add("most", 2**62)
    big = run(server, "add", "big", "1")
    assert big.exit_code == 1 and "big is not a counter" in big.stderr
    most = run(server, "add", "most", str(2**62))
    assert most.exit_code == 1 and "the sum does not fit in 64 bits" in most.stderr
    assert server.add("most", 0) == 2**62


def test_a_value_that_the_store_refuses_is_no_lost_store(tmp_path: Path) -> None:
    server = host_store(use_libuv=True)
    (tmp_path / "large").write_bytes(bytes(9 << 20))
    result = run(server, "set", "k", f"@{tmp_path}/large")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "answers, but closed the connection over this request" in result.stderr


def test_a_key_that_torch_cannot_list_is_a_sentence() -> None:
    server = host_store(use_libuv=True)
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as raw:
        key, value = b"/\xff", b"v"  # torch puts the slash before every key
        raw.sendall(struct.pack("<BI", 0, 0x3C85F7CE))
        raw.sendall(struct.pack("<BQ", 1, len(key)) + key + struct.pack("<Q", len(value)) + value)
        raw.sendall(struct.pack("<BI", 13, 7))
        assert raw.recv(4) == struct.pack("<I", 7)
    result = run(server, "keys")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a key that is not UTF-8 text" in result.stderr and "internal" not in result.stderr


def test_a_family_of_many_odd_numbers_is_one_line(server: Any) -> None:
    for number in range(0, 400, 2):
        server.set(f"ev/{number}", "v")
    lines = run(server, "keys").stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == ["KEYS NAME MEANING OR VALUE", "200 ev/0-398, 200 keys"]


def test_a_closed_standard_input_is_a_usage_error(server: Any) -> None:
    command = f"exec {sys.executable} -m torchctl store set k - --store 127.0.0.1:{server.port} <&-"
    with Child("sh", "-c", command) as child:
        code, out, err = child.end()
    assert (code, out) == (2, "")
    assert "standard input is closed" in err


SLOW_TORCH = """
import sys, time
print("importing", file=sys.stderr, flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("an extension made this of it")
"""


def test_ctrl_c_while_torch_is_imported_is_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(SLOW_TORCH)
    server = host_store()
    command = [sys.executable, "-m", "torchctl", "store", "keys", "--store", f"127.0.0.1:{server.port}"]
    with Child(*command, PYTHONPATH=str(tmp_path)) as child:
        assert child.error_line() == "importing"
        child.signal(signal.SIGINT)
        code, out, err = child.end()
    assert (code, out, err) == (130, "", "\ntorchctl: interrupted\n")


def test_no_answer_to_a_question_is_a_no(server: Any) -> None:
    server.add("x/num_members", 2)
    result = run(server, "set", "x/num_members", "5", text="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("Set it? [y/N]: \ntorchctl: not confirmed: nothing was written\n")
    assert server.get("x/num_members") == b"2"


@pytest.mark.parametrize("command", [["keys"], ["keys", "--all"]])
def test_a_store_that_stops_before_it_is_listed_does_not_freeze_the_command(command: list[str]) -> None:
    """torch holds the interpreter lock while it waits for the list: nothing but the socket can end that."""
    with (
        listening_on_tcp(greeting_as_a_store(silent)) as port,
        torchctl("store", *command, "--store", f"127.0.0.1:{port}") as child,
    ):
        code, out, err = child.end()
    assert (code, out) == (5, "")
    assert err.startswith(f"torchctl: the store 127.0.0.1:{port} accepted the connection and did not answer for 5s\n")


def test_an_answer_that_makes_no_sense_is_a_sentence() -> None:
    def absurd(connection: socket.socket) -> None:
        connection.sendall(b"\xff" * 8)  # so many keys
        silent(connection)

    with (
        listening_on_tcp(greeting_as_a_store(absurd)) as port,
        torchctl("store", "keys", "--store", f"127.0.0.1:{port}") as child,
    ):
        code, out, err = child.end()
    assert (code, out) == (1, "")
    assert f"the store 127.0.0.1:{port} sent an answer that cannot be read: " in err


def test_all_prints_large_and_small_values_each_once(server: Any) -> None:
    names = [f"k{number:03}" for number in range(150)]
    for name in names:
        server.set(name, bytes(1 << 20) if name == "k040" else "v")
    lines = run(server, "keys", "--all").stdout.splitlines()
    assert [line.partition("\t")[0] for line in lines] == names
