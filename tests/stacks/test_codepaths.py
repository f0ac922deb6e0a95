"""Whose code a frame is, by its path, and which frame is the user's own."""

import pytest

from tests.stacks.texts import START, TORCH, TRUNK, WAITING, dump
from torchctl.render.spans import plain
from torchctl.render.traceback import traceback_lines
from torchctl.render.tree import TreeStyle, class_lines, tree_lines
from torchctl.stacks.codepaths import nearest_frame, origin, short, users_frame
from torchctl.stacks.merge import Worker, merge
from torchctl.stacks.reader import parse_stacks

SITE = "/home/me/project/.venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        # Of the user's own.
        ("/home/me/project/train.py", "user"),
        ("train.py", "user"),
        ("model/attention.py", "user"),
        ("datasets/loader.py", "user"),  # py-spy has cut the path: a name that users give their own packages
        ("/home/me/src/lightning/src/lightning/pytorch/trainer.py", "user"),  # installed as editable
        ("/home/me/project/.venv/src/mylib/mylib/loss.py", "user"),  # pip install -e git+https://...
        ("/home/me/app.pyz/app/__main__.py", "user"),
        ("/tmp/ipykernel_123/456.py", "user"),
        ("<ipython-input-3-0123456789ab>", "user"),
        ("<string>", "user"),
        ("<stdin>", "user"),
        ("<torch_package_0>.model.py", "user"),
        ("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0a/train.py", "user"),
        ("/home/me/pytorch/train.py", "user"),
        ("/home/me/lib/python/train.py", "user"),
        # Installed, wherever that is.
        (f"{SITE}/accelerate/accelerator.py", "library"),
        ("/opt/conda/lib/python3.11/site-packages/lightning/pytorch/trainer/trainer.py", "library"),
        ("/opt/conda/envs/job/lib/python3.12/site-packages/transformers/trainer.py", "library"),
        ("/home/me/.local/lib/python3.10/site-packages/deepspeed/runtime/engine.py", "library"),
        ("/usr/lib/python3/dist-packages/numpy/core/numeric.py", "library"),
        ("/usr/local/lib/python3.11/dist-packages/trl/trainer.py", "library"),
        ("C:\\Python311\\Lib\\site-packages\\accelerate\\accelerator.py", "library"),
        ("/root/.shiv/app_1f/site-packages/accelerate/accelerator.py", "library"),
        ("/root/.pex/installed_wheels/0a1b/accelerate-0.30-py3-none-any.whl/accelerate/accelerator.py", "library"),
        ("/root/.pex/unzipped_pexes/0a1b/.deps/trl-0.9-py3-none-any.whl/trl/trainer.py", "library"),
        ("site-packages/accelerate/accelerator.py", "library"),
        ("accelerate/accelerator.py", "library"),  # as py-spy writes it
        ("<__array_function__ internals>", "library"),
        ("<attrs generated init job.Config>", "library"),
        # Torch's.
        (f"{SITE}/torch/nn/modules/module.py", "torch"),
        ("torch/nn/modules/module.py", "torch"),
        ("/src/pytorch/torch/nn/modules/module.py", "torch"),
        ("<eval_with_key>.12", "torch"),
        # Python's, and of torchctl's worker side.
        ("/root/.pyenv/versions/3.11.7/lib/python3.11/threading.py", "python"),
        ("/usr/lib/python3.11/queue.py", "python"),
        ("/usr/lib64/python3.9/runpy.py", "python"),
        ("/opt/conda/lib/python3.13t/asyncio/base_events.py", "python"),
        ("/opt/pypy/lib/pypy3.10/threading.py", "python"),
        ("/usr/lib/python311.zip/threading.py", "python"),
        ("<frozen runpy>", "python"),
        ("<frozen importlib._bootstrap>", "python"),
        ("threading.py", "python"),
        ("multiprocessing/spawn.py", "python"),
        (f"{SITE}/torchctl/server/__main__.py", "python"),
        ("/home/me/torchctl/torchctl/server/__main__.py", "python"),
        ("/home/me/torchctl/torchctl/storeutil/barrier.py", "python"),
        ("", "python"),
        ("../csrc/Work.cpp", "native"),
        ("??", "native"),
    ],
)
def test_whose_code_a_file_is(path: str, whose: str) -> None:
    assert origin(path) == whose


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"{SITE}/accelerate/accelerator.py", "accelerate/accelerator.py"),
        ("/usr/lib/python3/dist-packages/numpy/core/numeric.py", "numpy/core/numeric.py"),
        ("/usr/lib/python3.11/queue.py", "queue.py"),
        ("/root/.pex/installed_wheels/0a/x-1-py3-none-any.whl/x/y.py", "x/y.py"),
        ("/src/pytorch/torch/nn/modules/module.py", "torch/nn/modules/module.py"),
        ("/home/me/src/torchctl/server/__main__.py", "torchctl/server/__main__.py"),
        ("/home/me/project/train.py", "/home/me/project/train.py"),
        ("/usr/lib/python3.11/", "/usr/lib/python3.11/"),
    ],
)
def test_a_librarys_path_is_shown_from_its_package_on(path: str, shown: str) -> None:
    assert short(path) == shown


def test_the_users_frame_is_the_innermost_outside_of_what_is_installed() -> None:
    stack = [f"{SITE}/torch/a.py", f"{SITE}/accelerate/b.py", "/home/me/step.py", f"{SITE}/lightning/c.py", "train.py"]
    assert users_frame(stack) == nearest_frame(stack) == 2
    installed = [stack[0], stack[1], "<frozen runpy>"]
    assert (users_frame(installed), nearest_frame(installed)) == (None, 1)
    assert (users_frame(stack[:1]), nearest_frame(stack[:1])) == (None, None)


def test_what_starts_a_process_of_multiprocessing_is_not_the_users() -> None:
    started = ["/usr/lib/python3.11/queue.py", f"{SITE}/vllm/worker.py", "multiprocessing/spawn.py", "<string>"]
    assert users_frame(started) is None
    assert users_frame(["/usr/lib/python3.11/queue.py", "<string>"]) == 1  # python -c


LAUNCHED = [*START, (f"{SITE}/accelerate/commands/launch.py", 9, "main"), (f"{SITE}/accelerate/state.py", 7, "wait")]
REDUCE = (f"{TORCH}/distributed/distributed_c10d.py", 3252, "all_reduce")


def test_nothing_is_marked_where_all_code_is_installed() -> None:
    stacks = parse_stacks(dump(0, [*LAUNCHED, REDUCE]))
    merged = merge([Worker(0, stacks)])
    for lines in (tree_lines(merged, TreeStyle(200)), class_lines(merged, TreeStyle(200))):
        assert not any(">" in plain(line).replace("<frozen runpy>", "") for line in lines)
    shown = [line.plain for line in traceback_lines(stacks, all_threads=False, colour=False)]
    assert not any(line.startswith("    >") for line in shown)
    assert "      accelerate/state.py:7 in wait" in shown


def test_the_users_frame_is_marked_where_ranks_part_below_it() -> None:
    """They differ inside a library: the frame is in the trunk, and is still the innermost of the user's."""
    ends = [[*WAITING[:5], (f"{SITE}/accelerate/accelerator.py", line, "gather"), REDUCE] for line in (1, 2)]
    lines = [
        plain(line)
        for line in tree_lines(
            merge(Worker(rank, parse_stacks(dump(rank, frames))) for rank, frames in enumerate(ends)), TreeStyle(200)
        )
    ]
    assert [line for line in lines if line.lstrip("│ ").startswith(">")] == ["    > /home/me/train.py:24 in train_step"]
    assert "      /home/me/train.py:33 in main" in lines


def test_a_stack_that_ends_where_others_go_on_has_its_mark_there() -> None:
    stacks = [[*TRUNK, REDUCE], WAITING]
    merged = merge(Worker(rank, parse_stacks(dump(rank, frames))) for rank, frames in enumerate(stacks))
    marks = [line.lstrip("│ ") for line in (plain(one) for one in tree_lines(merged, TreeStyle(200))) if "  > " in line]
    assert marks == ["> /home/me/train.py:33 in main", "> /home/me/train.py:24 in train_step"]
