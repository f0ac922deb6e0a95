"""Real torchrun jobs that wait in torch's own store barrier, and an operator who steps in."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import unused_port
from tests.storejobs import Child, torchctl
from tests.stores import DEADLINE_S
from torchctl.storeutil import create_c10d_store

pytestmark = pytest.mark.torch

# Ranks of a job: rank ABSENT never enters the barrier of the others; WHO says whose barrier each rank uses.
JOB = """
import os, sys, time
import torch.distributed as dist
from torch.distributed.elastic.utils.store import barrier as torchs
from torchctl.storeutil import barrier as ours

dist.init_process_group("gloo")
rank, world_size = dist.get_rank(), dist.get_world_size()
port = int(os.environ["MASTER_PORT"])
store = dist.TCPStore(os.environ["MASTER_ADDR"], port, None, False, wait_for_workers=False)
if rank != int(os.environ["ABSENT"]):
    barrier = ours if rank in map(int, os.environ["OURS"].split()) else torchs
    barrier(store, world_size, "epoch", 60, rank=rank, trace_timeout=5)
    store.set(f"passed{rank}", str(time.time()))
    os.write(1, f"rank {rank} passed\\n".encode())  # torchrun runs python -u: print writes twice
store.wait(["end"])
dist.destroy_process_group()
"""


@contextmanager
def job(tmp_path: Path, world_size: int, *, absent: int, ours: str = "") -> Iterator[tuple[Child, str, int]]:
    """A running torchrun job, its store's HOST:PORT, and the port."""
    script = tmp_path / "train.py"
    script.write_text(JOB)
    port = unused_port()
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world_size}",
        "--master-addr=127.0.0.1", f"--master-port={port}", str(script),
    ]  # fmt: skip
    root = str(Path(__file__).resolve().parents[2])
    with Child(*command, ABSENT=str(absent), OURS=ours, PYTHONPATH=root, TORCH_CPP_LOG_LEVEL="FATAL") as child:
        yield child, f"127.0.0.1:{port}", port


def arrived(port: int, count: int) -> None:
    """Wait until `count` ranks of the job stand in its barrier."""
    store = create_c10d_store(False, "127.0.0.1", port, timeout=DEADLINE_S, wait_for_workers=False)
    end = time.monotonic() + DEADLINE_S
    while not (store.check(["epoch/num_members"]) and store.add("epoch/num_members", 0) == count):
        assert time.monotonic() < end, "the ranks did not come"
        time.sleep(0.05)


def finish(child: Child, port: int) -> None:
    """Let the job end, and see that it does."""
    create_c10d_store(False, "127.0.0.1", port, timeout=10, wait_for_workers=False).set("end", "1")
    code, _, err = child.end()
    assert code == 0, err


@pytest.mark.parametrize("ours", ["", "1"], ids=["torch's ranks alone", "torch's and ours in one job"])
def test_a_job_stuck_in_its_barrier_is_freed_by_joining_as_the_missing_rank(tmp_path: Path, ours: str) -> None:
    with job(tmp_path, 3, absent=2, ours=ours) as (child, store, port):
        arrived(port, 2)
        where = ["--store", store, "--world-size", "3", "--key-prefix", "epoch"]
        with torchctl("barrier", *where, "--status") as status:
            code, out, err = status.end()
        assert (code, err) == (0, "")
        assert out.startswith("barrier `epoch`: 2 of 3 arrived, not complete; ")
        with torchctl("barrier", *where, "--rank", "2") as joining:
            code, out, err = joining.end()
        assert (code, err) == (0, "")
        assert re.fullmatch(r"barrier `epoch` passed after [\d.]+m?s, 3 ranks\n", out)
        assert sorted([child.line(), child.line()]) == ["rank 0 passed", "rank 1 passed"]
        finish(child, port)


def test_a_job_stuck_in_its_barrier_is_freed_by_release(tmp_path: Path) -> None:
    with job(tmp_path, 3, absent=0) as (child, store, port):
        arrived(port, 2)
        where = ["--store", store, "--world-size", "3", "--key-prefix", "epoch"]
        with torchctl("barrier", *where, "--release", "--yes") as release:
            code, out, err = release.end()
        assert (code, out, err) == (0, "wrote epoch/last_member: 2 of 3 are released\n", "")
        assert sorted([child.line(), child.line()]) == ["rank 1 passed", "rank 2 passed"]
        with torchctl("store", "keys", "--store", store, "epoch*", "--json") as keys:
            code, out, err = keys.end()
        assert json.loads(out)["groups"][0]["meaning"] == "barrier `epoch`: 2 arrived, complete"
        finish(child, port)


def test_a_rank_that_was_killed_in_the_barrier_is_replaced_by_nobody(tmp_path: Path) -> None:
    """Its arrival stays counted, as torch counts it: the operator's join is the third, and all are let go."""
    server = create_c10d_store(True, "127.0.0.1", 0, timeout=DEADLINE_S, wait_for_workers=False)
    where = ["--store", f"127.0.0.1:{server.port}", "--world-size", "3", "--key-prefix", "x", "--json"]
    with (
        torchctl("barrier", *where, "--rank", "0") as dying,
        torchctl("barrier", *where, "--rank", "1") as living,
    ):
        server.wait(["x0/TRACE", "x1/TRACE"])
        dying.signal(signal.SIGKILL)
        assert dying.end()[0] == -signal.SIGKILL
        with torchctl("barrier", *where, "--status") as status:
            state = json.loads(status.end()[1])
        assert (state["arrived"], state["missing"]) == (2, [2])
        with torchctl("barrier", *where, "--rank", "2") as joining:
            assert joining.end()[0] == 0
        code, out, _ = living.end()
        assert (code, json.loads(out)["complete"]) == (0, True)


def test_the_job_is_killed_while_the_operator_waits(tmp_path: Path) -> None:
    with job(tmp_path, 2, absent=1) as (child, store, port):
        arrived(port, 1)
        with torchctl("barrier", "--store", store, "--world-size", "9", "--key-prefix", "epoch") as waiting:
            assert waiting.error_line() == "arrived 2 of 9, 0s"
            child.signal(signal.SIGTERM)  # torchrun ends its workers, and with rank 0 the store
            code, out, err = waiting.end()
            assert waiting.process.poll() is not None
        assert (code, out) == (3, "")
        assert f"torchctl: the store {store} was lost: " in err
        assert "Traceback" not in err
        child.end()
        assert not os.path.exists(f"/proc/{child.process.pid}")
