"""torch.distributed.debug and torchctl in one job: each finds and asks the other's workers."""

import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.processes import running

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

# Rank 0 has torch's debug page and worker server, rank 1 ours; a process for both would have one port of each.
JOB = """
import multiprocessing, os, socket, sys, time
def worker(rank, port, pipe):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHCTL_WORKER_PORT="0")
    import torch.distributed as dist
    if rank == 0:
        from unittest import mock
        from torch.distributed import debug
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            page = probe.getsockname()[1]
        # The name of this host may lead nowhere on a machine for tests.
        with mock.patch.object(socket, "gethostname", lambda: "localhost"):
            debug.start_debug_server(port=page, start_method="spawn")
        dist.init_process_group("gloo")
        pipe.send(page)
        pipe.recv()
        debug.stop_debug_server()
        os._exit(0)
    from torchctl.server import worker_main
    with worker_main():
        dist.init_process_group("gloo")
        pipe.send(0)
        pipe.recv()
        os._exit(0)
if __name__ == "__main__":
    from torch.distributed import TCPStore
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(rank, store.port, theirs)))
        processes[-1].start()
        theirs.close()  # so that a rank that dies is an end of file here
        pipes.append(ours)
    page = next(iter([pipe.recv() for pipe in pipes]))
    deadline = time.monotonic() + 60
    while not store.check(["debug_server/rank0", "debug_server/torchctl_rank1"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(store.port, page, flush=True)
    sys.stdin.readline()
    for pipe in pipes:
        pipe.send("end")
    for process in processes:
        process.join(20)
        process.kill()
"""


def run(*arguments: str) -> Result:
    from torchctl.cli import cli

    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def wait_until_listening(port: int) -> None:
    """The page's process imports torch first."""
    deadline = time.monotonic() + 100
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_each_lists_and_asks_the_others_workers(folder: Path) -> None:
    script = folder / "job.py"
    script.write_text(JOB)
    with running([sys.executable, str(script)]) as job:
        store, page = job.line(100).split()
        where = ["--store", f"127.0.0.1:{store}", "--timeout", "60"]
        ping = run("ping", *where)
        traceback = run("traceback", *where)
        wait_until_listening(int(page))
        with urllib.request.urlopen(f"http://localhost:{page}/stacks", timeout=100) as reply:
            shown = reply.read().decode()
        job.tell("")
        job.finish()
    assert ping.exit_code == 0, ping.stderr
    assert ping.stdout.count("pong") == 2
    assert "rank 1  pong" in ping.stdout
    assert "in worker" in traceback.stdout
    assert traceback.exit_code == 0, traceback.stderr
    assert "Rank 0" in shown
    assert "Rank 1: http://127.0.0.1:" in shown
    assert "Failed to fetch" not in shown
    assert shown.count("most recent call first") >= 2
