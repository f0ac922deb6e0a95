"""Which thread is the rank's, what threads are there for, and who is at a prompt."""

from __future__ import annotations

import pytest

from torchctl.stacks.merge import Worker, merge
from torchctl.stacks.prompts import prompt_of
from torchctl.stacks.reader import StackReader, parse_stacks
from torchctl.stacks.role import rank_thread, role_of
from torchctl.stacks.stack import Stacks

SITE = "/opt/lib/python3.11/site-packages/"
RAY = ["main_loop (ray/_private/worker.py:961)", "<module> (ray/_private/workers/default_worker.py:330)"]
TRAINS = ["all_reduce (torch/distributed/distributed_c10d.py:2810)", "train_step (train.py:101)"]
READS = ["read_sql (train.py:44)", "next_batch (train.py:52)"]
SESSION = ["RayTrainSession._start (ray/train/_internal/session.py:210)", "Thread.run (threading.py:982)"]
HEARTBEAT = ["beat (train.py:9)", "Thread.run (threading.py:982)"]
FEEDER = ["Queue.get (multiprocessing/queues.py:103)", "_pin_memory_loop (torch/utils/data/_utils/pin_memory.py:52)"]


def stacks(main: list[str], *others: list[str]) -> Stacks:
    """Return what py-spy reads of a process whose main thread comes first."""
    parts = ["Process 10: python train.py", "Python v3.11.7 (/usr/bin/python3.11)", ""]
    for number, frames in enumerate((main, *others)):
        name = "MainThread" if not number else f"Thread-{number} (run)"
        parts += [f'Thread {10 + number} (idle): "{name}"', *(f"    {frame}" for frame in frames)]
    return parse_stacks("\n".join(parts).encode())


def shown(main: list[str], *others: list[str]) -> int:
    """Return the place of the rank's thread, 0 for the main one."""
    thread = rank_thread(stacks(main, *others))
    assert thread is not None
    return thread.ident - 10


JOIN = ["Thread.join (threading.py:1119)", "main (train.py:70)"]
RESULT = ["Condition.wait (threading.py:327)", "Future.result (concurrent/futures/_base.py:451)", "save (train.py:31)"]
WRITER = ["write (ckpt.py:4)", "_worker (concurrent/futures/thread.py:83)"]


@pytest.mark.parametrize(
    ("main", "others", "place"),
    [
        (RAY, [TRAINS + SESSION], 1),
        (RAY, [HEARTBEAT, READS + SESSION], 2),
        ([frame.replace("(ray", f"({SITE}ray") for frame in RAY], [READS], 1),
        (RAY, [HEARTBEAT, READS], 0),  # it cannot be known which
        (RAY, [FEEDER], 0),
        ([*READS, *RAY], [TRAINS], 0),  # the actor's method trains
        (JOIN, [TRAINS], 1),
        (["_wait_for_tstate_lock (threading.py:1139)", *JOIN], [FEEDER, TRAINS], 2),
        (RESULT, [WRITER], 1),
        (JOIN, [], 0),
        (["Queue.get (queue.py:171)", "next_batch (train.py:4)"], [HEARTBEAT], 0),
        (TRAINS, [READS], 0),
    ],
)
def test_the_ranks_thread_is_the_main_one_unless_that_waits_for_the_one_that_trains(
    main: list[str], others: list[list[str]], place: int
) -> None:
    assert shown(main, *others) == place


def test_threads_that_train_are_merged_by_themselves_and_shown_in_the_main_ones_place() -> None:
    shared = StackReader().shared  # equal stacks are one object, as merging wants them
    workers = [Worker(rank, shared(stacks(RAY, (READS if rank == 1 else TRAINS) + SESSION))) for rank in range(3)]
    (role,) = merge(workers).roles
    assert role.role == "training"
    assert [(one.members, one.frames[0].function) for one in role.classes] == [
        ([1], "read_sql"),
        ([0, 2], "all_reduce"),
    ]
    assert [role.role for role in merge(workers, all_threads=True).roles] == ["main", "training"]


def test_roles_are_known_by_py_spys_names_too() -> None:
    feeder = ["wait (threading.py:324)", "Queue._feed (multiprocessing/queues.py:231)", "Thread.run (threading.py:982)"]
    start = ["work (x.py:1)", "Thread.run (threading.py:982)", "Thread._bootstrap (threading.py:1002)"]
    _, one, two = stacks(TRAINS, feeder, start).threads
    assert role_of(one) == "queue-feeder"
    nameless = type(two)(two.ident, "", False, two.frames)
    assert role_of(nameless) == "thread in work"


PDB = ["Pdb._cmdloop (pdb.py:330)", "Pdb.interaction (pdb.py:365)", "Pdb.user_line (pdb.py:269)"]


@pytest.mark.parametrize(
    ("frames", "name"),
    [
        (["cmdloop (cmd.py:126)", *PDB, "trace_dispatch (bdb.py:90)", "train_step (train.py:9)"], "pdb"),
        ([*PDB, "_DistributedPdb.interaction (torch/distributed/__init__.py:71)", "f (train.py:9)"], "pdb"),
        (["prompt (IPython/terminal/debugger.py:80)", "f (train.py:9)"], "IPython's debugger"),
        (["_do_wait_suspend (debugpy/_vendored/pydevd/pydevd.py:2100)", "f (train.py:9)"], "debugpy"),
        (["InteractiveConsole.interact (/usr/lib/python3.11/code.py:270)", "f (train.py:9)"], "a Python prompt"),
        (["f (train.py:9)", "run (bdb.py:597)", "Pdb._runscript (pdb.py:1570)"], ""),  # python -m pdb, running
        (["interaction (my/pdb_tools.py:9)"], ""),
        (["f (train.py:9)", *PDB], ""),
    ],
)
def test_a_debuggers_prompt_is_known_by_what_is_within_the_users_code(frames: list[str], name: str) -> None:
    main = stacks(frames).main
    assert main is not None
    assert prompt_of(main.frames) == name
