"""Control groups of a test's own, below the one that it runs in: nothing of the machine's is changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import running
from tests.sentinels import eventually

NO_MEMORY_GROUP = "no control group with a memory limit can be made here"
NO_FREEZER = "no control group that can be frozen can be made here"


class Group(NamedTuple):
    """A control group, as a folder; `v1` is the older kind, with a hierarchy for each controller."""

    folder: Path
    v1: bool

    def enter(self, pid: int) -> None:
        """Put a process into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it frozen; a process of its own lets it go on, even when this one is killed meanwhile."""
        state = self.folder / ("freezer.state" if self.v1 else "cgroup.freeze")
        on, off = ("FROZEN", "THAWED") if self.v1 else ("1", "0")
        with running(
            ["sh", "-c", f'echo {on} >"$1"; echo done; read line; echo {off} >"$1"', "sh", str(state)]
        ) as shell:
            shell.wait_for("done")
            try:
                eventually(self._is_frozen)
                yield
            finally:
                shell.tell("go on")
                shell.finish()

    def _is_frozen(self) -> bool:
        if self.v1:
            return (self.folder / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (self.folder / "cgroup.events").read_text()


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group | None]:
    """Yield a group with a memory limit; None if none can be made."""
    with _group("memory", {True: "memory.limit_in_bytes", False: "memory.max"}, str(limit_bytes)) as group:
        yield group


@contextlib.contextmanager
def frozen_group() -> Iterator[Group | None]:
    """Yield a group that can be frozen; None if none can be made."""
    with _group("freezer", {True: "freezer.state", False: "cgroup.freeze"}, "") as group:
        yield group


@contextlib.contextmanager
def _group(controller: str, files: dict[bool, str], text: str) -> Iterator[Group | None]:
    group = _made(controller, files, text)
    try:
        yield group
    finally:
        if group is not None:
            eventually(lambda: _removed(group.folder))


def _made(controller: str, files: dict[bool, str], text: str) -> Group | None:
    """Make a group where the controller's file can be written (v1 before v2); None elsewhere."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        v1 = controller in controllers.split(",")
        if not v1 and controllers:
            continue
        folder = Path(f"/sys/fs/cgroup/{controller}" if v1 else "/sys/fs/cgroup") / path.strip("/")
        folder /= f"torchctl-test-{controller}-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                with open(folder / files[v1], "r+", encoding="ascii") as file:
                    file.write(text)
            except OSError:
                folder.rmdir()
                raise
            return Group(folder, v1)
    return None


def _removed(folder: Path) -> bool:
    """Remove a group; processes that have just ended may be in it for a moment."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
