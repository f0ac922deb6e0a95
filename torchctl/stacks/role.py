"""What a thread is for: its role, used to match threads across ranks.

Names differ from rank to rank (``Thread-7``, ``ThreadPoolExecutor-0_3``) and C++ threads have none, so the role comes
from the outermost frames if they show it, else from the name with its numbers replaced.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torchctl.stacks.stack import Stacks, ThreadStack

MAIN = "main"
TRAINING = "training"  # a thread that trains while the main one waits for it: see `rank_thread`
OWN = "torchctl"  # the debug server's own threads: never shown

# (end of the file's path, function, None for any) -> role; matched against a thread's outermost frames.
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
_OUTERMOST = 6  # frames to check: threading's own start-up takes two or three
_NAMES = ((re.compile(r"pt_autograd_\d+"), "autograd"), (re.compile(r"pt_data_(?:pin|worker).*"), "data-loader"))
_START_UP = ("_bootstrap", "_bootstrap_inner", "run")

# Processes whose main thread serves a framework and does not train.
# Source: Ray 2.52; python/ray/train/_internal/session.py and train/v2 start the training's thread.
_FRAMEWORKS = ("ray/_private/workers/default_worker.py",)
_TRAINING = ("ray/train/",)
_JOINS = (
    ("threading.py", frozenset({"join", "_wait_for_tstate_lock", "_shutdown"})),
    ("concurrent/futures/_base.py", frozenset({"result", "exception", "wait", "result_iterator", "as_completed"})),
)
_SERVICES = frozenset(
    {"pin-memory", "data-loader", "autograd", "inductor", "debug-page", "queue-feeder", "tqdm-monitor", "tensorboard"}
)


def role_of(thread: ThreadStack) -> str:
    """Return a thread's role: ``main``, ``autograd``, ``pin-memory`` ..., or its name with N for each number."""
    if thread.main:
        return MAIN
    if thread.own:
        return OWN
    for pattern, role in _NAMES:
        if pattern.fullmatch(thread.name):
            return role
    for frame in thread.frames[: -_OUTERMOST - 1 : -1]:
        for ending, function, role in _ENTRIES:
            if function in (None, frame.bare) and frame.file.endswith(ending):
                return role
    if thread.name and not re.fullmatch(r"(?:Thread|Dummy)-\d+", thread.name):
        return re.sub(r"\d+", "N", thread.name)
    for frame in reversed(thread.frames):
        if frame.bare not in _START_UP:
            return f"thread in {frame.bare}"
    return "thread without Python frames"


def matches(thread: ThreadStack, role: str, pattern: str) -> bool:
    """Whether ``--thread PATTERN`` matches a thread's role or name, ignoring case; ``*`` and ``?`` as in the shell."""
    wanted = pattern.lower()
    return any(word == wanted or fnmatchcase(word, wanted) for word in (role.lower(), thread.name.lower()))


def rank_thread(stacks: Stacks) -> ThreadStack | None:
    """Return the thread that shows where the rank is, or None if the main thread is missing.

    It is the main thread unless that only waits for another one: a framework may train on a thread, as Ray Train does;
    a script may start a thread and join it, or end before it (`threading._shutdown`); the main thread may wait for one
    that writes a checkpoint. If more than one thread qualifies, it is the main thread.
    """
    main = stacks.main
    if main is None or not _waits_for_another(main):
        return main
    others = [
        thread
        for thread in stacks.threads
        if not thread.main and not thread.own and thread.nearest_frame is not None and role_of(thread) not in _SERVICES
    ]
    for wanted in (_is_started_for_training, _has_users_code, _is_in_torch):
        if len(found := [thread for thread in others if wanted(thread)]) == 1:
            return found[0]
    return main


def _waits_for_another(main: ThreadStack) -> bool:
    """Whether the main thread serves a framework, or waits for a thread to end."""
    if any(frame.file.endswith(_FRAMEWORKS) for frame in main.frames[-3:]) and main.users_frame is None:
        return True
    for frame in main.frames:
        if frame.origin != "python":
            return False
        if any(frame.file.endswith(file) and frame.bare in functions for file, functions in _JOINS):
            return True
    return False


def _is_started_for_training(thread: ThreadStack) -> bool:
    return any(part in frame.file for frame in thread.frames for part in _TRAINING)


def _has_users_code(thread: ThreadStack) -> bool:
    return thread.users_frame is not None


def _is_in_torch(thread: ThreadStack) -> bool:
    return any(frame.origin == "torch" for frame in thread.frames)
