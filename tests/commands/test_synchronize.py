"""`torchctl synchronize` against live stores and torch's own synchronize."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.storejobs import torchctl, until_counter
from tests.stores import connect, host_store
from torchctl.cli import cli
from torchctl.errors import StoreInterruptedError
from torchctl.storeutil.operator.synchronize import join_exchange

pytestmark = pytest.mark.torch


@pytest.fixture
def server() -> Iterator[Any]:
    yield host_store()


def run(server: Any, *args: str, text: str | None = None) -> Result:
    where = ["--store", f"127.0.0.1:{server.port}", "--key-prefix", "s/"]
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["synchronize", *where, *args], input=text)


def torchs_rank_0(server: Any, data: bytes, got: list[list[bytes]]) -> threading.Thread:
    """Start rank 0 of 2 in torch's own function."""
    from torch.distributed.elastic.utils.store import synchronize

    client = connect(server)
    thread = threading.Thread(target=lambda: got.append(synchronize(client, data, 0, 2, "s/", 30)), daemon=True)
    thread.start()
    return thread


def test_it_exchanges_with_torch_and_prints_a_table(server: Any) -> None:
    got: list[list[bytes]] = []
    thread = torchs_rank_0(server, b"from\x1b torch", got)
    result = run(server, "--rank", "1", "--world-size", "2", "--data", "hello")
    thread.join(10)
    assert got == [[b"from\x1b torch", b"hello"]]
    assert (result.exit_code, result.stderr) == (0, "")
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "RANK BYTES DATA",
        "0 11 66 72 6f 6d 1b 20 74 6f 72 63 68",
        "1 5 hello",
    ]


def test_json_has_base64_always_and_text_where_it_is_text(server: Any) -> None:
    server.set("s/0", b"\xff")
    result = run(server, "--rank", "1", "--world-size", "2", "--data", "-", "--json", text="in\n")
    answer = json.loads(result.stdout)
    assert answer.pop("elapsed_s") < 60
    assert answer == {
        "schema": "torchctl.synchronize/1",
        "key_prefix": "s/",
        "ranks": [
            {"rank": 0, "size_bytes": 1, "base64": "/w==", "text": None},
            {"rank": 1, "size_bytes": 3, "base64": "aW4K", "text": "in\n"},
        ],
    }


def test_files_hold_the_bytes(server: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"\x00\x01")
    server.set("s/0", b"\xff")
    out = tmp_path / "out"
    result = run(server, "--rank", "1", "--world-size", "2", "--data", f"@{tmp_path}/mine", "--output-dir", str(out))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote 2 files to {out}\n"
    assert [(out / f"rank{rank}").read_bytes() for rank in range(2)] == [b"\xff", b"\x00\x01"]


def test_a_timeout_names_who_has_not_published(server: Any) -> None:
    server.set("s/2", "x")
    result = run(server, "--rank", "0", "--world-size", "4", "--data", "x", "--timeout", "0.4")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == (
        "published 2 of 4, missing 1,3, 0s\n"
        "torchctl: exchange `s/`: 2 of 4 published within 400ms; missing: 1,3\n"
        "  our data stays under s/0: publish again with --overwrite\n"
    )


def test_stale_data_is_refused_unless_overwritten(server: Any) -> None:
    server.set("s/0", "old")
    refused = run(server, "--rank", "0", "--world-size", "1", "--data", "new")
    assert refused.exit_code == 1
    assert "s/0 already has data" in refused.stderr
    assert server.get("s/0") == b"old"
    done = run(server, "--rank", "0", "--world-size", "1", "--data", "new", "--overwrite")
    assert done.exit_code == 0
    assert server.get("s/0") == b"new"


def test_rank_0_says_when_the_others_have_not_read(server: Any) -> None:
    server.set("s/1", "x")
    result = run(server, "--rank", "0", "--world-size", "2", "--data", "x", "--timeout", "0.4")
    assert result.exit_code == 0
    assert result.stderr == "not every rank had read the data when we left\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--rank", "2", "--world-size", "2", "--data", "x"], "--rank 2 must be less than --world-size 2"),
        (["--rank", "0", "--world-size", "2", "--data", "@/no/such/file"], "No such file"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(server: Any, args: list[str], sentence: str) -> None:
    result = run(server, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_an_interrupted_wait_takes_the_data_back(server: Any) -> None:
    where = ["--store", f"127.0.0.1:{server.port}", "--key-prefix", "s/"]
    with torchctl("synchronize", *where, "--rank", "1", "--world-size", "2", "--data", "x") as child:
        assert child.error_line() == "published 1 of 2, missing 0, 0s"
        child.signal(signal.SIGINT)
        code, out, err = child.end()
    assert (code, out) == (130, "")
    assert "our data was withdrawn" in err
    assert not server.check(["s/1"])


def test_ctrl_c_as_rank_0_prints_the_complete_data_that_others_still_read(server: Any) -> None:
    server.set("s/1", "there")
    where = ["--store", f"127.0.0.1:{server.port}", "--key-prefix", "s/"]
    with torchctl("synchronize", *where, "--rank", "0", "--world-size", "2", "--data", "mine", "--json") as child:
        until_counter(server, "s//finished/num_members", 1)
        child.signal(signal.SIGINT)
        code, out, err = child.end()
    assert [rank["text"] for rank in json.loads(out)["ranks"]] == ["mine", "there"]
    assert (code, err) == (0, "not every rank had read the data when we left\n")


class Counting:
    """A store that counts how often it is asked whether keys exist."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.checks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def check(self, keys: list[str]) -> bool:
        self.checks += 1
        return bool(self.store.check(keys))


def test_waiting_for_thousands_asks_little_of_the_store_and_misses_nobody(server: Any) -> None:
    store, stop = Counting(connect(server)), threading.Event()
    checks, seen = [], []

    def progress(missing: list[int], elapsed_s: float) -> None:
        checks.append(store.checks)
        seen.append(missing)
        if len(seen) == 1:
            server.set("d/999", "late")
        elif missing != seen[0]:
            stop.set()

    with pytest.raises(StoreInterruptedError, match="our data was withdrawn"):
        join_exchange(store, b"x", 0, 1500, "d/", timeout_s=60, stop=stop, progress=progress)
    assert seen[0] == list(range(1, 1500))
    assert seen[-1] == [rank for rank in range(1, 1500) if rank != 999]
    assert all(after - before <= 4 * 256 for before, after in pairwise(checks))
    assert not server.check(["d/0"])
