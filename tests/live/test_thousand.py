"""1,024 real workers in a few processes, asked by one command."""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.folders import short_folder
from tests.processes import python
from tests.servers import STUCK_RANK, serving
from torchctl.cli import cli
from torchctl.workers.ask import outside

pytestmark = pytest.mark.once

PROCESSES, EACH = 4, 256

SERVERS = """
import sys
from torchctl.server import WorkerServer
servers = [WorkerServer("{folder}/worker%d" % number) for number in range({first}, {first} + {count})]

def stand_here():
    print("up", flush=True)
    sys.stdin.readline()

stand_here()
for server in servers:
    server.shutdown()
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the sockets of 1,024 servers; each process has one rank of its own."""

    with short_folder() as folder, contextlib.ExitStack() as stack:
        for number in range(PROCESSES):
            code = SERVERS.format(first=number * EACH, count=EACH, folder=folder)
            environment = {"TORCHCTL_JOB_ID": "thousand", "PYTHONPATH": os.getcwd(), "TORCHCTL_SENTINEL": "0"}
            stack.enter_context(python(code, environment)).wait_for("up")
        yield Path(folder)


def test_every_one_of_them_answers(thousand: Path) -> None:
    began = time.monotonic()
    result = run("ping", "--socket", str(thousand), "--timeout", "100", "--json")
    assert time.monotonic() - began < 90
    document = json.loads(result.stdout)
    assert (len(document["workers"]), document["failures"], result.exit_code) == (1024, [], 0), result.stderr


def test_the_stacks_of_a_thousand_ranks_are_one_screen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "find_pyspy", lambda: None)  # the process of the silent one could be read
    with serving(1000, holes=1, dead=23) as served:
        hosts = folder / "hosts"
        lines = [f"127.0.0.1:{port}" for port in served.good]
        lines += [f"127.0.0.1:{port} rank={1000 + number}" for number, port in enumerate([*served.holes, *served.dead])]
        hosts.write_text("\n".join(lines))
        result = run("traceback", "--hostfile", str(hosts), "--timeout", "25")
    shown = result.stdout.splitlines()
    assert shown[0] == "1000 ranks answered of 1000", result.stderr[-3000:]
    assert shown[1].startswith("  rank 1000: 127.0.0.1:")
    assert shown[2] == "  ranks 1001-1023: refused (23)"
    assert [line for line in shown if re.match(r"[├└]─ ", line)] == [
        f"├─ 1 rank: {STUCK_RANK}",
        "└─ 999 ranks: 0-16,18-999",
    ]
    assert result.exit_code == 3


def test_ctrl_c_prints_what_has_come(thousand: Path) -> None:
    """A command in a process of its own, interrupted while one silent worker is waited for."""
    import signal
    import subprocess
    import sys

    from tests import listeners
    from tests.listeners import listening

    with listening(str(thousand / "silent"), listeners.silent):
        arguments = [sys.executable, "-m", "torchctl", "ping", "--socket", str(thousand), "--timeout", "100", "--json"]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_for_connections(process.pid, most=1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait(10)
    (thousand / "silent").unlink()
    assert process.returncode == 130
    document = json.loads(out)
    # All but a few had answered by then, and who had not is said: 1,025 facts.
    missing = {failure["endpoint"] for failure in document["failures"]}
    assert len(document["workers"]) + len(missing) == 1025
    assert len(document["workers"]) > 20 and f"{thousand}/silent" in missing
    assert f"{thousand}/silent had not answered when the command was interrupted" in err


def wait_for_connections(pid: int, *, most: int) -> None:
    """Wait until a process has opened connections and closed all but `most`."""
    deadline = time.monotonic() + 60
    most_seen = 0
    while True:
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
            count = sum(link.startswith("socket:") for link in links)
            most_seen = max(most_seen, count)
            if most_seen > 20 and count <= most + 2:  # asyncio has a pair of its own
                return
        time.sleep(0.005)
