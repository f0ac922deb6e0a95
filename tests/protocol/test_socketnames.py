"""The names of socket files: what the server writes is what the command line reads."""

import os
import socket
from pathlib import Path

import pytest

from torchctl.protocol.launchers import JobPlace
from torchctl.protocol.socketnames import SocketName, compose, filled_in, found_by_variable, named_by_variable, parse

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("rank", "pid", "name"), [(3, 4711, "rank3-4711.sock"), (None, 4711, "4711.sock")])
def test_a_name_says_what_it_was_made_of(rank: int | None, pid: int, name: str) -> None:
    assert compose(rank, pid) == name
    assert parse(name) == parse(f"/run/x/{name}") == SocketName(rank, pid)


@pytest.mark.parametrize(
    "name", ["", "s", "rank3.sock", "rank-1-2.sock", "my-rank3-7.sock", "rank3-7.sock.1", "x-7.sock"]
)
def test_any_other_name_says_nothing(name: str) -> None:
    assert parse(name) == SocketName()


def test_no_process_has_the_pid_0() -> None:
    assert parse("rank3-0.sock") == SocketName(3)


def test_placeholders_are_filled_in() -> None:
    assert filled_in("/run/{rank}.{local_rank}.{pid}", JobPlace(9, 1, 16), 7) == "/run/9.1.7"
    assert filled_in("25{local_rank}00", JobPlace(None, None, None), 7) == "25unknown00"


@pytest.mark.parametrize("value", ["{rank}.sock", "w{pid}", "plain", "a[1]", "dir {local_rank}/s"])
def test_each_path_that_the_variable_gives_a_process_is_found(folder: Path, value: str) -> None:
    made = set()
    for local_rank in range(3):
        path = named_by_variable(f"{folder}/{value}", JobPlace(local_rank + 8, local_rank, 16), 100 + local_rank)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path)
        made.add(path)
    assert len(made) == 3
    assert set(found_by_variable(f"{folder}/{value}")) == made
