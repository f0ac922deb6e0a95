"""Sends and receives that are recorded: who waits for which, and nothing is kept longer than without."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.live.jobs import forked_job
from tests.live.test_many_calls import ask, read
from torchctl.protocol.calls import P2P, Calls

pytestmark = pytest.mark.torch
SCRIPT = Path(__file__).parent / "p2p_calls.py"
# Run by `python -m torchctl.server`, which is there before torch is.
_ALONE = """
import gc, json, sys, weakref
assert "torch" not in sys.modules
import torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchctl.server.guest import outstanding

gc.disable()
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
tensor = torch.ones(2)
counts = [len(outstanding.all_begun())]
kept = dist.isend(tensor, 1, tag=3)
other = dist.irecv(tensor, 1)
counts.append(len(outstanding.all_begun()))
assert outstanding.begun_of(kept)[:3] == ("isend", 1, 3)
dist.Work.wait(kept)  # the fake one has a wait of its own
counts.append(len(outstanding.all_begun()))
references = [weakref.ref(other), weakref.ref(tensor)]
del other, tensor
counts.append(len(outstanding.all_begun()))
dist.P2POp(dist.isend, torch.ones(1), 1)  # compares functions by identity
loader = sys.modules["torch.distributed.distributed_c10d"].__spec__.loader
print(json.dumps([counts, [one() is None for one in references], type(loader).__name__, outstanding.is_recording()]))
"""


def test_a_stack_says_whom_the_jobs_own_code_waits_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    runtime_dir = tmp_path_factory.mktemp("run")
    runtime_dir.chmod(0o700)
    seen: list[Calls] = []

    def waits() -> bool:
        seen.append(read(runtime_dir))
        main = seen[-1].main
        return main is not None and main.wait is not None and main.wait.p2p is not None

    began = time.time()
    with forked_job(SCRIPT, 2, runtime_dir, environment={"TORCHCTL_RECORD_P2P": "1"}):
        wait_until(waits, 60)
        (worker,) = ask(runtime_dir, "traceback")["workers"]
    (call,) = [one["call"] for one in worker["threads"] if one["main"]]
    assert call == "Work.wait() of irecv from rank 1, tag 5"
    calls = seen[-1]
    assert calls.p2p is not None
    stages = next(at for at, one in enumerate(calls.groups) if one.description == "stages")
    assert [one._replace(since=None) for one in calls.p2p] == [P2P("irecv", 1, tag, stages) for tag in (5, 6)]
    assert all(one.since is not None and began - 1 < one.since < time.time() + 1 for one in calls.p2p)


def test_what_is_recorded_is_gone_once_it_is_waited_for_or_dropped(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_ALONE)
    command = [sys.executable, "-m", "torchctl.server", "--record-p2p", str(script)]
    environment = {**os.environ, "TORCHCTL_RUNTIME_DIR": str(tmp_path), "TORCHCTL_SENTINEL": "0"}
    tmp_path.chmod(0o700)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [[0, 2, 1, 0], [True, True], "SourceFileLoader", True]
