"""Torch's own server under our command line, and torch's own client and curl on our server."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.processes import Process, running
from torchctl.cli import cli
from torchctl.server import WorkerServer

TORCHS = (
    "import sys, torch\nfrom torch._C._distributed_c10d import _WorkerServer\n"
    "unix = _WorkerServer(sys.argv[1])\ntcp = _WorkerServer('127.0.0.1', 0)\n"
    "def wait_for_the_test():\n    print(tcp.port, flush=True)\n    sys.stdin.readline()\n"
    "wait_for_the_test()\nunix.shutdown()\ntcp.shutdown()\n"
)


@pytest.fixture
def torchs(folder: Path) -> Iterator[tuple[Process, list[str]]]:
    """Return a process with torch's own servers, and the options that name its Unix and its TCP address."""
    path = str(folder / "torch.sock")
    with running([sys.executable, "-c", TORCHS, path]) as process:
        port = process.line()
        yield process, ["--socket", path, "--host", f"127.0.0.1:{port}"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.mark.torch
def test_our_commands_on_torchs_own_server(torchs: tuple[Process, list[str]]) -> None:
    _, where = torchs
    ping = run("ping", *where)
    assert (ping.exit_code, ping.stdout.count("rank ?  pong")) == (0, 2)
    handlers = run("handlers", *where)
    assert handlers.exit_code == 0
    assert {"ping", "dump_traceback", "fr_trace_json"} <= set(handlers.stdout.split())
    call = run("call", "fr_trace_json", *where[:2])
    assert (call.exit_code, "version" in json.loads(call.stdout)) == (0, True)
    unknown = run("call", "nope", *where)
    assert (unknown.exit_code, unknown.stderr.count("has no handler 'nope'")) == (4, 2)
    traceback = run("traceback", *where)
    assert traceback.exit_code == 0
    assert "main thread: 2 workers" in traceback.stdout
    assert traceback.stdout.count("in wait_for_the_test") == 1
    trace = run("nccl-trace", *where, "--timeout", "60")
    assert (trace.exit_code, trace.stdout.count("format 2.")) == (0, 2)
    ps = run("ps", *where, "--json")
    assert (ps.exit_code, [worker["state"] for worker in json.loads(ps.stdout)["workers"]]) == (0, ["ok", "ok"])


@pytest.mark.torch
def test_torchs_own_client_on_our_server() -> None:
    from torch.distributed.debug._frontend import fetch_thread_pool

    with WorkerServer("", 0) as server:
        names = ("dump_traceback", "fr_trace_json", "dump_nccl_trace_json", "wait_counter_values", "ping")
        urls = [f"http://localhost:{server.port}/handler/{name}?" for name in names]
        replies = fetch_thread_pool(urls, timeout=30.0)
    assert [reply.status_code for reply in replies] == [200] * len(names)
    assert "test_torchs_own_client_on_our_server" in replies[0].text
    assert replies[-1].text == "pong"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_on_our_server(folder: Path) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "-sS", "--max-time", "10", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    with WorkerServer(str(folder / "s")) as unix, WorkerServer("", 0) as tcp:
        over_unix = ("--unix-socket", unix.address)
        assert curl(*over_unix, "-X", "POST", "http://x/handler/ping") == "pong"
        assert "ping" in json.loads(curl(f"http://localhost:{tcp.port}/handler/"))
        assert curl("-g", f"http://127.0.0.1:{tcp.port}/").startswith("<h1>torch.distributed.WorkerServer</h1>")
        status = ["-o", "/dev/null", "-w", "%{http_code}"]
        assert curl(*over_unix, *status, "-d", "format=json", "http://x/handler/dump_traceback") == "200"
        assert curl(*over_unix, *status, "-d", "format=xml", "http://x/handler/dump_traceback") == "400"
        big = folder / "big"
        big.write_bytes(b"x" * (3 << 20))
        assert curl(*over_unix, *status, "--data-binary", f"@{big}", "http://x/handler/ping") == "413"
