"""What a thread is there for: its role, by which the threads of different ranks are matched.

Names differ from rank to rank (``Thread-7``, ``ThreadPoolExecutor-0_3``) and threads of C++ have none, so the role
comes from the outermost frame where that says it, else from the name with its numbers blotted out.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torchctl.stacks.stack import ThreadStack

MAIN = "main"
OWN = "torchctl"  # the debug server's own threads: never shown

# (end of the file's path, function, None for any) -> role; looked for among the outermost frames of a thread.
# Source: torch/utils/data/_utils, torch/autograd, multiprocessing/queues.py (torch 2.13, Python 3.14).
_ENTRIES: tuple[tuple[str, str | None, str], ...] = (
    ("torch/utils/data/_utils/pin_memory.py", "_pin_memory_loop", "pin-memory"),
    ("torch/utils/data/_utils/worker.py", "_worker_loop", "data-loader"),
    ("torch/utils/data/dataloader.py", None, "data-loader"),
    ("torch/autograd/function.py", None, "autograd"),
    ("torch/autograd/graph.py", None, "autograd"),
    ("torch/utils/checkpoint.py", None, "autograd"),
    ("torch/_inductor/compile_worker/subproc_pool.py", None, "inductor"),
    ("torch/distributed/checkpoint/_async_thread_executor.py", None, "checkpoint"),
    ("torch/distributed/debug/_frontend.py", None, "debug-page"),
    ("multiprocessing/queues.py", "_feed", "queue-feeder"),
    ("multiprocessing/pool.py", None, "pool"),
    ("concurrent/futures/thread.py", "_worker", "thread-pool"),
    ("tqdm/_monitor.py", None, "tqdm-monitor"),
    ("tensorboard/summary/writer/event_file_writer.py", None, "tensorboard"),
)
_OUTERMOST = 6  # frames looked at: threading's own start-up takes two or three
_NAMES = ((re.compile(r"pt_autograd_\d+"), "autograd"), (re.compile(r"pt_data_(?:pin|worker).*"), "data-loader"))
_START_UP = ("_bootstrap", "_bootstrap_inner", "run")


def role_of(thread: ThreadStack) -> str:
    """Return a thread's role: ``main``, ``autograd``, ``pin-memory`` ..., else its name with N for each number."""
    if thread.main:
        return MAIN
    if thread.own:
        return OWN
    for pattern, role in _NAMES:
        if pattern.fullmatch(thread.name):
            return role
    for frame in thread.frames[: -_OUTERMOST - 1 : -1]:
        for ending, function, role in _ENTRIES:
            if function in (None, frame.function) and frame.file.endswith(ending):
                return role
    if thread.name and not re.fullmatch(r"(?:Thread|Dummy)-\d+", thread.name):
        return re.sub(r"\d+", "N", thread.name)
    for frame in reversed(thread.frames):
        if frame.function not in _START_UP:
            return f"thread in {frame.function}"
    return "thread without Python frames"


def matches(thread: ThreadStack, role: str, pattern: str) -> bool:
    """Whether ``--thread PATTERN`` means a thread: by its role or name, any case, ``*`` and ``?`` as in the shell."""
    wanted = pattern.lower()
    return any(word == wanted or fnmatchcase(word, wanted) for word in (role.lower(), thread.name.lower()))
