"""Merged stacks on screens of 80 and 200 columns."""

from pathlib import Path

from tests.stacks.texts import FEEDER, STUCK, TORCH, TRUNK, WAITING, dump
from torchctl.ranks import Member
from torchctl.render.members import counted, folded
from torchctl.render.spans import plain, shorten_path
from torchctl.render.tree import TreeStyle, class_lines, tree_lines
from torchctl.render.tree_json import job_json
from torchctl.stacks.merge import Merged, Worker, merge
from torchctl.stacks.reader import StackReader

STUCK_RANK = 5


def job(count: int, **options: object) -> Merged:
    reader = StackReader()
    workers = [
        Worker(rank, reader.read(dump(rank, STUCK if rank == STUCK_RANK else WAITING, ("", FEEDER))))
        for rank in range(count)
    ]
    return merge(workers, **options)  # type: ignore[arg-type]


def screen(merged: Merged, style: TreeStyle) -> str:
    return "\n".join(plain(line) for line in tree_lines(merged, style))


def test_a_screen_of_80_columns() -> None:
    assert screen(job(14), TreeStyle(80)) == (
        "main thread: 14 ranks: 0-13\n"
        "      ... 2 frames of Python, the last: <frozen runpy>:88 in _run_code\n"
        "      /home/me/train.py:38 in <module>\n"
        "      /home/me/train.py:33 in main\n"
        "├─ 1 rank: 5\n"
        "│    > /home/me/train.py:18 in next_batch\n"
        "│      ... 2 frames of Python, the last: threading.py:320 in wait\n"
        "└─ 13 ranks: 0-4,6-13\n"
        "     > /home/me/train.py:24 in train_step\n"
        "       ... 2 frames of torch, the last: …/distributed_c10d.py:3252 in all_reduce\n"
        "not shown: 14 more threads (pin-memory 14); --all-threads"
    )


def test_a_wide_screen_cuts_nothing_and_full_folds_nothing() -> None:
    wide = screen(job(14), TreeStyle(200))
    assert "... 2 frames of torch, the last: torch/distributed/distributed_c10d.py:3252 in all_reduce" in wide
    full = screen(job(14), TreeStyle(200, full=True))
    assert "       torch/distributed/c10d_logger.py:81 in wrapper\n" in full
    assert "frames of" not in full


def test_classes_are_whole_stacks_the_smallest_first() -> None:
    lines = [plain(line) for line in class_lines(job(14), TreeStyle(80))]
    assert lines[0] == "1 rank: 5"
    assert lines[6] == ""
    assert lines[7] == "13 ranks: 0-4,6-13"
    assert lines[4] == "  > /home/me/train.py:18 in next_batch"


def test_no_line_is_wider_than_the_screen() -> None:
    deep = [("/home/me/" + "x" * 300 + "/train.py", line, "f" * 200) for line in range(5)]
    reader = StackReader()
    workers = []
    for rank in range(60):
        frames = deep + [("/home/me/" + "a" * 90 + ".py", 1, "go")] * rank + [(f"{TORCH}/" + "y" * 90 + ".py", 3, "op")]
        workers.append(Worker(2 * rank, reader.read(dump(rank, frames))))
    merged = merge(workers)
    for width in (80, 200):
        for style in (TreeStyle(width), TreeStyle(width, full=True), TreeStyle(width, samples=3)):
            lines = screen(merged, style).splitlines()
            assert max(map(len, lines)) <= width
            assert len(lines) > 100


def test_source_lines_are_shown_where_the_file_is_readable(tmp_path: Path) -> None:
    source = tmp_path / "train.py"
    source.write_text("import x\n\ndef main():\n    train_step(batch)\n")
    reader = StackReader()
    frames = [(str(source), 4, "main"), (f"{TORCH}/nn.py", 1, "forward")]
    merged = merge([Worker(rank, reader.read(dump(rank, frames))) for rank in range(2)])
    lines = screen(merged, TreeStyle(200)).splitlines()
    assert lines[1:3] == [f"  > {source}:4 in main", "        train_step(batch)"]


def test_moving_and_still() -> None:
    reader = StackReader()
    workers = []
    for rank in range(4):
        stacks = reader.read(dump(rank, STUCK if rank == 3 else WAITING))
        ids = frozenset(thread.ident for thread in stacks.threads)
        workers.append(Worker(rank, stacks, ids if rank == 1 else frozenset()))
    text = screen(merge(workers), TreeStyle(80, samples=2))
    assert "├─ 1 rank: 3  still\n" in text
    assert "└─ 3 ranks: 0-2  1 of 3 moving\n" in text
    branch = job_json("j", 4, merge(workers))["tree"][0]["branches"][0]
    assert branch["branches"][1]["moving"] == {"ranks": [1], "workers": []}


def test_control_characters_and_markup_stay_text() -> None:
    reader = StackReader()
    frames = [*TRUNK, ("/x/[bold]\x1b[2J.py", 3, "f\x07[red]")]
    workers = [Worker(rank, reader.read(dump(rank, frames))) for rank in range(2)]
    text = screen(merge(workers), TreeStyle(200))
    assert "  > /x/[bold]\\x1b[2J.py:3 in f\\x07[red]" in text


def test_who_in_few_words() -> None:
    mixed: list[Member] = [0, 1, 2, "/run/a.sock"]
    assert (counted(mixed), folded(mixed)) == ("3 ranks and 1 other worker", "0-2, /run/a.sock")
    assert (counted(["/a", "/b"]), counted([4])) == ("2 workers", "1 rank")
    odd = list(range(1, 4096, 2))
    short = folded(odd, 40)
    assert len(short) <= 40
    assert short == "1,3,5,7,9,11,13,15,17,19,21,... (+2037)"
    assert folded(odd).count(",") == 2047


def test_a_path_is_cut_before_a_whole_name_where_one_fits() -> None:
    path = "torch/distributed/distributed_c10d.py"
    assert [shorten_path(path, room) for room in (37, 36, 32, 22, 12)] == [
        path,
        "…/distributed/distributed_c10d.py",
        "…/distributed_c10d.py",
        "…/distributed_c10d.py",
        "…ted_c10d.py",
    ]


def test_names_of_files_are_cut_to_the_width_with_their_folders_first() -> None:
    names: list[Member] = [f"/shared/job/py-spy-{pid}.txt" for pid in (3290, 3291, 3292, 3293)]
    assert folded(names, 110) == ", ".join([*map(str, names[:3]), "... (+1)"])
    assert folded(names, 70) == "…/py-spy-3290.txt, …/py-spy-3291.txt, …/py-spy-3292.txt, ... (+1)"
    assert folded(names, 40) == "…/py-spy-3290.txt, ... (+3)"
    assert folded(names, 12) == "…/py-spy-3290.txt, ... (+3)"
    assert folded([0, 1, "2@/run/job/a.sock", "2@node1:/run/job/b.sock"], 36) == "0-1, 2@…/a.sock, 2@node1:…/b.sock"
