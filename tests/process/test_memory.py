"""Memory groups of cgroup v1 and v2, on recorded trees and where this machine has one to make."""

import subprocess
from pathlib import Path

import pytest

from tests.control_groups import NO_MEMORY_GROUP, memory_group
from torchctl.process.memory import group_of

V1_MOUNT = "35 28 0:31 {root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
V1_FREEZER = "36 28 0:32 / /sys/fs/cgroup/freezer rw,nosuid - cgroup cgroup rw,freezer\n"
V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def write(folder: Path, path: str, **files: str) -> None:
    target = folder / path.strip("/")
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (target / name.replace("__", ".")).write_text(text)


def process(folder: Path, cgroup: str, mountinfo: str) -> None:
    write(folder, "proc/7", cgroup=cgroup, mountinfo=mountinfo)


def test_v2_takes_the_fullest_group_above(folder: Path) -> None:
    process(folder, "0::/job/step\n", V2_MOUNT.format(root="/"))
    events = "low 0\nhigh 0\nmax 12\noom 0\noom_kill 1\n"
    write(folder, "sys/fs/cgroup/job/step", memory__max="max\n", memory__current="900\n")
    write(folder, "sys/fs/cgroup/job", memory__max="1000\n", memory__current="990\n", memory__events__local=events)
    group = group_of(7, proc=str(folder / "proc"), root=str(folder))
    assert (group.used, group.limit, group.full, group.struggles, group.kills) == (990, 1000, True, 12, 1)
    assert group.path.endswith("/sys/fs/cgroup/job")


def test_v2_frozen(folder: Path) -> None:
    process(folder, "0::/job\n", V2_MOUNT.format(root="/"))
    write(folder, "sys/fs/cgroup/job", cgroup__events="populated 1\nfrozen 1\n")
    assert group_of(7, proc=str(folder / "proc"), root=str(folder)).frozen


def test_v2_in_a_container_with_its_own_part_mounted(folder: Path) -> None:
    process(folder, "0::/docker/abc/job\n", V2_MOUNT.format(root="/docker/abc"))
    write(folder, "sys/fs/cgroup/job", memory__max="1000\n", memory__current="10\n")
    group = group_of(7, proc=str(folder / "proc"), root=str(folder))
    assert (group.used, group.limit, group.full) == (10, 1000, False)


def test_v1_limit_and_freezer(folder: Path) -> None:
    process(folder, "6:freezer:/job\n4:memory:/slurm/job\n1:cpu:/\n0::/\n", V1_MOUNT.format(root="/") + V1_FREEZER)
    write(
        folder,
        "sys/fs/cgroup/memory/slurm/job",
        memory__limit_in_bytes="2000\n",
        memory__usage_in_bytes="1999\n",
        memory__failcnt="44\n",
        memory__stat="cache 700\ntotal_cache 800\ntotal_shmem 300\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    )
    write(folder, "sys/fs/cgroup/memory", memory__limit_in_bytes="9223372036854771712\n")
    write(folder, "sys/fs/cgroup/freezer/job", freezer__state="FROZEN\n")
    group = group_of(7, proc=str(folder / "proc"), root=str(folder))
    assert (group.used, group.limit, group.struggles, group.kills, group.frozen) == (1999, 2000, 44, 3, True)
    assert (group.reclaimable, group.full) == (500, False)


@pytest.mark.parametrize("cgroup", ["", "garbage\n", "4:memory:/../../etc\n", "0::\n"])
def test_what_is_no_group_is_none(folder: Path, cgroup: str) -> None:
    process(folder, cgroup, V1_MOUNT.format(root="/") + V2_MOUNT.format(root="/"))
    group = group_of(7, proc=str(folder / "proc"), root=str(folder))
    assert (group.limit, group.full, group.frozen) == (None, False, False)


def test_a_group_that_we_make_is_found() -> None:
    with memory_group(64 << 20) as group:
        if group is None:
            pytest.skip(NO_MEMORY_GROUP)
        with subprocess.Popen(["sleep", "60"]) as sleeper:
            try:
                group.enter(sleeper.pid)
                found = group_of(sleeper.pid)
                assert (found.path, found.limit) == (str(group.folder), 64 << 20)
            finally:
                sleeper.kill()
