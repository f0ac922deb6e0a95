"""Memory groups of cgroup v1 and v2, on recorded trees and where this machine has one to make."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sentinels import degraded, held, worker
from torchctl.silence.memory import group_of

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


@contextlib.contextmanager
def child_group() -> Iterator[Path | None]:
    """A memory group below this process's own, with a limit; None where none can be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        v1 = "memory" in controllers.split(",")
        base = Path("/sys/fs/cgroup/memory" if v1 else "/sys/fs/cgroup") / path.strip("/")
        group = base / f"torchctl-test-{os.getpid()}"
        limit = group / ("memory.limit_in_bytes" if v1 else "memory.max")
        if not v1 and controllers:
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            limit.write_text(str(64 << 20))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def test_a_worker_at_its_limit_is_told(folder: Path) -> None:
    code = (
        "sys.stdin.readline()\nfilled = bytearray(b'x') * int((64 << 20) * 0.97)\n"
        "print('holding', flush=True)\nctypes.PyDLL(None).sleep(60)\n"
    )
    with child_group() as group:
        if group is None:
            pytest.skip("no control group with a memory limit can be made here")
        with worker(folder / "s", code) as (process, _):
            (group / "cgroup.procs").write_text(str(process.pid))
            process.tell("fill it")
            held(process)
            assert b"its control group is at its memory limit of 64 MiB" in degraded(folder / "s").body


def test_a_group_that_we_make_is_found() -> None:
    with child_group() as group:
        if group is None:
            pytest.skip("no control group with a memory limit can be made here")
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        try:
            (group / "cgroup.procs").write_text(str(child))
            found = group_of(child)
            assert (found.path, found.limit) == (str(group), 64 << 20)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
