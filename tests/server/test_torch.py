"""The worker side with torch loaded: recorders, torch's own handlers, and torch's own tools against ours."""

import contextlib
import http.client
import json
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_client import post, request
from tests.processes import python, running
from torchctl.server import WorkerServer

pytestmark = pytest.mark.torch


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    import torch  # noqa: F401

    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@pytest.mark.parametrize("name", ["dump_nccl_trace_pickle", "fr_trace_pickle"])
def test_a_pickled_trace_is_torchs(address: str, name: str) -> None:
    reply = post(address, name)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
    assert "version" in pickle.loads(reply.body)


@pytest.mark.parametrize("name", ["dump_nccl_trace_json", "fr_trace_json"])
def test_a_json_trace_is_torchs(address: str, name: str) -> None:
    reply = post(address, name)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert "version" in json.loads(reply.body)


def test_the_reply_says_which_recorder_it_was(address: str) -> None:
    from torch._C import _distributed_c10d

    nccl = "nccl" if hasattr(_distributed_c10d, "_dump_nccl_trace") else "generic"
    assert post(address, "dump_nccl_trace_pickle").headers["Torchctl-Recorder"] == nccl
    assert post(address, "fr_trace_json").headers["Torchctl-Recorder"] == "generic"


@pytest.mark.parametrize("name", ["dump_nccl_trace_pickle", "dump_nccl_trace_json", "fr_trace_pickle", "fr_trace_json"])
@pytest.mark.parametrize(
    ("query", "culprit"),
    [
        ("includeCollectives=true", b"'includeCollectives'"),
        ("unknownkey=true", b"'unknownkey'"),
        ("includecollectives=notabool", b"'notabool'"),
        ("includecollectives=True", b"'True'"),
        ("onlyactive=", b"''"),
    ],
)
def test_a_bad_key_or_value_is_400_and_named(address: str, name: str, query: str, culprit: bytes) -> None:
    reply = post(address, f"{name}?{query}")
    assert reply.status == 400
    assert culprit in reply.body


def test_good_keys_and_values_are_taken(address: str) -> None:
    query = "includecollectives=true&includestacktraces=false&onlyactive=true"
    assert post(address, f"dump_nccl_trace_pickle?{query}").status == 200
    assert post(address, "dump_nccl_trace_json?includecollectives=true&onlyactive=true").status == 200
    assert post(address, "dump_nccl_trace_json?includestacktraces=true").status == 400


def test_parameters_reach_torch(folder: Path, address: str) -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    try:
        dist.all_reduce(torch.ones(3))
        with_stacks = pickle.loads(post(address, "fr_trace_pickle").body)
        assert with_stacks["entries"][-1]["frames"]
        without = pickle.loads(post(address, "fr_trace_pickle?includestacktraces=false").body)
        assert not without["entries"][-1].get("frames")
        assert not pickle.loads(post(address, "fr_trace_pickle?includecollectives=false").body).get("entries")
        info = json.loads(post(address, "info").body)
        assert (info["rank"], info["world_size"]) == (0, 1)
        assert any("gloo" in backend for backend in info["backends"])
        assert info["torch_version"] == torch.__version__
    finally:
        dist.destroy_process_group()


def test_wait_counters_are_json(address: str) -> None:
    reply = post(address, "wait_counter_values")
    assert reply.status == 200
    assert isinstance(json.loads(reply.body), dict)


def test_a_handler_registered_with_torch_is_served_too(folder: Path) -> None:
    """In a process that ends by os._exit: torch 2.13 crashes when it frees a Python handler at exit."""
    path = folder / "s"
    code = (
        "import os, torchctl.server as s\n"
        "from torch._C._distributed_c10d import _register_handler\n"
        "def of_a_user(request, response):\n"
        "    response.set_content(repr((request.params(), request.body(), request.get_param('b'))), 'text/plain')\n"
        "_register_handler('of_a_user', of_a_user)\n"
        f"server = s.WorkerServer({str(path)!r})\n"
        "response = s.Response()\n"
        "s.get_handler('of_a_user')(s.Request(), response)\n"
        "print(response.status, 'of_a_user' in s.get_handler_names(), flush=True)\n"
        "input()\nos._exit(0)\n"
    )
    with python(code) as process:
        assert process.line() == "200 True"
        reply = post(str(path), "of_a_user?b=2", b"data")
        assert (reply.status, reply.body) == (200, b"({'b': '2'}, b'data', '2')")
        assert "of_a_user" in json.loads(request(str(path), "GET", "/handler/").body)


def test_the_profiler_gives_a_chrome_trace_one_at_a_time(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda _: post(address, "torch_profile?duration=1.0"), range(2)))
    assert sorted(reply.status for reply in replies) == [200, 409]
    trace = next(reply for reply in replies if reply.status == 200)
    assert "traceEvents" in json.loads(trace.body)


@pytest.mark.parametrize("duration", ["", "abc", "0", "-1", "61", "nan", "inf"])
def test_a_bad_duration_is_400(address: str, duration: str) -> None:
    assert post(address, f"torch_profile?duration={duration}").status == 400


@pytest.mark.parametrize("prelude", ["", "import sys\nsys.modules['torch'] = None\n"])
def test_a_process_without_torch_has_an_empty_trace_and_is_not_made_to_load_it(folder: Path, prelude: str) -> None:
    path = folder / "s"
    code = (
        f"{prelude}import sys, torchctl.server as s\nwith s.WorkerServer({str(path)!r}):\n    print('up', flush=True)\n"
        "    input()\nprint('torch._C' in sys.modules)\n"
    )
    with python(code) as process:
        process.wait_for("up")
        assert post(str(path), "dump_nccl_trace_pickle?bad=true").status == 400
        for name in ("dump_nccl_trace_pickle", "fr_trace_pickle"):
            reply = post(str(path), name)
            assert (reply.status, reply.headers["Torchctl-Recorder"]) == (200, "none")
            assert pickle.loads(reply.body)["entries"] == []
        assert json.loads(post(str(path), "fr_trace_json").body)["entries"] == []
        assert json.loads(post(str(path), "wait_counter_values").body) == {}
        assert post(str(path), "torch_profile?duration=1").status == 501
        assert json.loads(post(str(path), "info").body)["torch_version"] is None
        process.tell("")
        assert process.finish() == (0, "False\n", "")


def test_the_training_s_own_profiler_is_left_alone(address: str) -> None:
    import torch

    with torch.profiler.profile():
        reply = post(address, "torch_profile?duration=1")
    assert reply.status == 409
    assert b"its own profiler" in reply.body


def test_a_process_that_ends_under_a_profile_ends_well(folder: Path) -> None:
    import threading

    path = folder / "s"
    code = (
        "import torch, torchctl.server as s\nserver = s.WorkerServer("
        f"{str(path)!r})\nprint('up', flush=True)\ninput()\n"
    )
    with python(code) as process:
        process.wait_for("up")
        asking = threading.Thread(target=lambda: ask_and_ignore(str(path)))
        asking.start()
        deadline = time.monotonic() + 30
        while b"in torch_profile\n" not in post(str(path), "dump_traceback").body:
            assert time.monotonic() < deadline
        process.tell("")
        assert process.finish(30)[0] == 0
        asking.join(30)


def ask_and_ignore(path: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        post(path, "torch_profile?duration=8")


def test_pyspy_reads_this_process_without_stopping_it(address: str) -> None:
    reply = post(address, "pyspy_dump?nonblocking=1")
    assert reply.status == 200, reply.body
    assert f"Process {os.getpid()}:".encode() in reply.body
    assert b"test_pyspy_reads_this_process_without_stopping_it" in reply.body
    with running(["sleep", "60"]):  # py-spy fails at a child that runs no Python
        reply = post(address, "pyspy_dump?subprocesses=1")
        assert reply.status == 200, reply.body
        assert b"test_pyspy_reads_this_process_without_stopping_it" in reply.body
        assert b"\nNot all child processes were read: " in reply.body
    refused = post(address, "pyspy_dump?native=1")
    assert refused.status == 400
    assert b"allow_pause" in refused.body
    assert post(address, "pyspy_dump?native=perhaps").status == 400


def test_pyspy_may_pause_where_the_server_allows_it(folder: Path) -> None:
    with WorkerServer(str(folder / "s"), allow_pause=True) as server:
        reply = post(server.address, "pyspy_dump?native=true")
        assert reply.status == 200, reply.body
        assert b"libc" in reply.body or b".so" in reply.body


def test_no_pyspy_is_501_with_a_hint(address: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import sys

    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    reply = post(address, "pyspy_dump")
    assert reply.status == 501
    assert b"pip install py-spy" in reply.body
