"""Determines from its main thread's stack what a process is for: only some of a job's processes are ranks."""

from __future__ import annotations

from functools import lru_cache

from torchctl.stacks.stack import StackFrame, Stacks

# (end of the file's path, function, None for any) -> what the process is. None of them may hold a rank.
# Source: torch 2.13, Python 3.14, DeepSpeed 0.18, Accelerate 1.12.
_ENTRIES: tuple[tuple[str, str | None, str], ...] = (
    ("torch/utils/data/_utils/worker.py", "_worker_loop", "a worker of a data loader"),
    ("torch/_inductor/compile_worker/__main__.py", None, "a compile worker"),
    ("torch/_inductor/compile_worker/subproc_pool.py", "main", "a compile worker"),
    ("multiprocessing/resource_tracker.py", "main", "a resource tracker"),
    ("multiprocessing/managers.py", "serve_forever", "a server of shared objects"),
    ("multiprocessing/pool.py", "worker", "a worker of a pool"),
    ("concurrent/futures/process.py", "_process_worker", "a worker of a pool"),
    ("torchctl/server/sentinel/__main__.py", None, "torchctl's sentinel"),
    ("ray/_private/log_monitor.py", None, "a service of Ray"),
    ("ray/_private/runtime_env/agent/main.py", None, "a service of Ray"),
    ("ray/dashboard/agent.py", None, "a service of Ray"),
    ("ray/dashboard/dashboard.py", None, "a service of Ray"),
    ("ray/autoscaler/_private/monitor.py", None, "a service of Ray"),
    ("ray/_private/worker.py", "get", "a process that waits for Ray's results"),
    ("ray/_private/worker.py", "wait", "a process that waits for Ray's results"),
)
_LAUNCHERS: tuple[tuple[str, str | None], ...] = (
    ("torch/distributed/elastic/agent/server/api.py", None),
    ("torch/distributed/launcher/api.py", None),
    ("torch/distributed/run.py", None),
    ("torch/multiprocessing/spawn.py", "join"),
    ("deepspeed/launcher/launch.py", None),
    ("deepspeed/launcher/runner.py", None),
    ("accelerate/commands/launch.py", None),
    ("multiprocessing/forkserver.py", "main"),
)
# A forked process also has its launcher's frames, outside one of these.
_FORKED: tuple[tuple[str, str | None], ...] = (
    ("torch/multiprocessing/spawn.py", "_wrap"),
    ("torch/distributed/elastic/multiprocessing/api.py", "_wrap"),
    ("multiprocessing/forkserver.py", "_serve_one"),
    ("multiprocessing/popen_fork.py", "_launch"),
)
_FILES = tuple({one[0] for one in _ENTRIES} | {one[0] for one in (*_LAUNCHERS, *_FORKED)})


def purpose_of(stacks: Stacks) -> str:
    """Return what a process is, such as "a launcher", if it is not a rank; "" if it may be one."""
    main = stacks.main
    if main is None:
        return ""
    known = [frame for frame in main.frames if _is_known(frame.file)]
    for frame in known:
        for ending, function, words in _ENTRIES:
            if function in (None, frame.bare) and frame.file.endswith(ending):
                return words
    for frame in known:  # innermost first
        if _is_one_of(frame, _FORKED):
            return ""
        if _is_one_of(frame, _LAUNCHERS):
            return "a launcher"
    return ""


@lru_cache(maxsize=8192)
def _is_known(file: str) -> bool:
    return file.endswith(_FILES)


def _is_one_of(frame: StackFrame, entries: tuple[tuple[str, str | None], ...]) -> bool:
    return any(function in (None, frame.bare) and frame.file.endswith(ending) for ending, function in entries)
