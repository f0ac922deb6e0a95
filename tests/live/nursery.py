"""A process that has imported torch and forks the ranks of jobs: the import alone takes a rank seconds of CPU.

``python -m tests.live.nursery`` reads a job per line of stdin, JSON: ``{"script": path, "ranks": count,
"environment": {name: value}, "errors": path, "imports": [module]}``, and answers with the pid of its leader. The
leader's children are the ranks, as the agent's are under torchrun, and the host of their store. Each rank has
torchrun's variables and runs ``-m torchctl.server SCRIPT``; its stderr goes to the file `errors`. The leader waits
for no child: a rank that ends stays a zombie, as under an agent that has not looked yet. Everything ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any

import torch.distributed as dist

HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork a leader for each line, until stdin ends."""
    for line in sys.stdin:
        job = json.loads(line)
        for name in job["imports"]:
            importlib.import_module(name)
        leader = _fork()
        if leader == 0:
            return _lead(job)
        print(leader, flush=True)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    return None


def _fork() -> int:
    """Fork a child that is killed when this process ends."""
    parent, child = os.getpid(), os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    return child


def _lead(job: dict[str, Any]) -> None:
    os.setsid()
    null, errors = os.open(os.devnull, os.O_RDWR), os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (null, 1), (errors, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(errors)
    os.environ.clear()
    os.environ.update(job["environment"])
    reading, writing = os.pipe()
    if _fork() == 0:
        return _host_store(writing)
    port = os.read(reading, 16).decode()
    os.close(reading)
    os.close(writing)
    for rank in range(job["ranks"]):
        if _fork() == 0:
            return _be_rank(job["script"], rank, job["ranks"], port)
    while True:
        signal.pause()


def _host_store(writing: int) -> None:
    store = dist.TCPStore(HOST, 0, None, True, wait_for_workers=False)
    os.write(writing, str(store.port).encode())
    os.close(writing)
    while True:
        signal.pause()


def _be_rank(script: str, rank: int, world_size: int, port: str) -> None:
    os.setsid()
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": HOST,
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    os.environ.update({name: str(value) for name, value in variables.items()})
    dist.set_debug_level_from_env()  # read by the import, before this job's variables were there
    sys.argv[:] = ["torchctl.server", script]
    runpy.run_module("torchctl.server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
