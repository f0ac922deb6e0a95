"""Stacks of a made-up job, as faulthandler writes them."""

from __future__ import annotations

TORCH = "/opt/lib/python3.11/site-packages/torch"
START = [("<frozen runpy>", 198, "_run_module_as_main"), ("<frozen runpy>", 88, "_run_code")]
TRUNK = [*START, ("/home/me/train.py", 38, "<module>"), ("/home/me/train.py", 33, "main")]
WAITING = [
    *TRUNK,
    ("/home/me/train.py", 24, "train_step"),
    (f"{TORCH}/distributed/c10d_logger.py", 81, "wrapper"),
    (f"{TORCH}/distributed/distributed_c10d.py", 3252, "all_reduce"),
]
STUCK = [
    *TRUNK,
    ("/home/me/train.py", 18, "next_batch"),
    ("/opt/lib/python3.11/queue.py", 171, "get"),
    ("/opt/lib/python3.11/threading.py", 320, "wait"),
]
FEEDER = [
    ("/opt/lib/python3.11/threading.py", 1002, "_bootstrap"),
    ("/opt/lib/python3.11/threading.py", 982, "run"),
    (f"{TORCH}/utils/data/_utils/pin_memory.py", 55, "_pin_memory_loop"),
    ("/opt/lib/python3.11/multiprocessing/queues.py", 113, "get"),
]
OWN = [("/opt/lib/python3.11/site-packages/torchctl/server/listener.py", 100, "serve_forever")]


def thread(ident: int, name: str, frames: list[tuple[str, int, str]]) -> str:
    """Return one thread's text; frames are outermost first."""
    label = f" [{name}]" if name else ""
    lines = [f'  File "{file}", line {line} in {function}' for file, line, function in reversed(frames)]
    return "\n".join([f"Thread 0x{ident:016x}{label} (most recent call first):", *lines]) + "\n"


def dump(rank: int, frames: list[tuple[str, int, str]], *others: tuple[str, list[tuple[str, int, str]]]) -> bytes:
    """Return a worker's text: other threads, newest first, then the main one; addresses differ per rank."""
    base = 0x7F0000000000 + rank * 0x10000
    parts = [thread(base + index + 1, name, stack) for index, (name, stack) in enumerate(others)]
    return "\n".join([*parts, thread(base, "MainThread", frames)]).encode()
