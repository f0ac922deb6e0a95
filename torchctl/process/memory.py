"""Checks whether a process's control group is at its memory limit or frozen, in cgroup v1 and v2.

How this works: /proc/PID/cgroup names the group per hierarchy and /proc/PID/mountinfo where each hierarchy is
mounted. In a container, only part of the hierarchy may be mounted: then the mount's root is removed from the group's
path. The effective limit may be set on any group above, so all are checked.

Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and freezer-subsystem.rst.
"""

from __future__ import annotations

from typing import NamedTuple

from torchctl.process.samples import PROC, read

_FULL = 0.95  # of the limit, not counting what the kernel can drop: hardly any room is left
_TIGHT = 0.8  # likewise, if the limit was hit just now
_NO_LIMIT = 1 << 60  # v1 writes "no limit" as a number near 2**63, v2 as the word max


class ControlGroup(NamedTuple):
    """What a process's memory group reports.

    Attributes:
        path: the fullest group's folder; "" if none was found.
        used, limit: in bytes; `limit` is None if no limit is set.
        reclaimable: the part of `used` that is cached files, which the kernel drops when it needs room. The group of a
            job that reads a lot is always full of them, which is fine.
        struggles: how often the limit was hit so far (v2 `max`, v1 `failcnt`), summed over the group and its parents.
        kills: how many processes in the group the kernel's out-of-memory killer has killed so far.
        frozen: the group is frozen: nothing in it runs.
    """

    path: str = ""
    used: int = 0
    limit: int | None = None
    struggles: int = 0
    kills: int = 0
    reclaimable: int = 0
    frozen: bool = False

    @property
    def full(self) -> bool:
        """Whether memory that cannot be dropped fills it to its limit."""
        return self.limit is not None and self.used - self.reclaimable >= self.limit * _FULL

    @property
    def tight(self) -> bool:
        """Whether memory that cannot be dropped fills it nearly to its limit."""
        return self.limit is not None and self.used - self.reclaimable >= self.limit * _TIGHT


def group_of(pid: int, *, proc: str = PROC, root: str = "") -> ControlGroup:
    """Return the memory group of a process.

    Args:
        proc: where /proc is mounted.
        root: prefix for the mounts' paths; tests use it to read recorded trees.
    """
    mounts = _mounts(read(f"{proc}/{pid}/mountinfo"))
    found = ControlGroup()
    for line in read(f"{proc}/{pid}/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",") if controllers else [""]
        for name in names:
            if name not in ("", "memory", "freezer") or name not in mounts:
                continue
            mounted_root, mount = mounts[name]
            folders = _folders(root + mount, mounted_root, path)
            if name == "freezer":
                frozen = read(f"{folders[0]}/freezer.state").strip() == "FROZEN"
            elif name == "":
                frozen = "frozen 1" in read(f"{folders[0]}/cgroup.events")
            else:
                frozen = False
            found = _fuller(found, [_v1(one) if name == "memory" else _v2(one) for one in folders], frozen)
    return found


def _fuller(found: ControlGroup, groups: list[ControlGroup], frozen: bool) -> ControlGroup:
    """Return the group closest to its limit, with the sum of all `struggles`, and frozen if any is."""
    best = found
    for one in groups:
        if one.limit and (not best.limit or one.used / one.limit > best.used / best.limit):
            best = one
    struggles = found.struggles + sum(one.struggles for one in groups)
    kills = found.kills + sum(one.kills for one in groups)
    return best._replace(struggles=struggles, kills=kills, frozen=found.frozen or frozen)


def _v2(folder: str) -> ControlGroup:
    limit = _number(read(f"{folder}/memory.max"))
    used = _number(read(f"{folder}/memory.current")) or 0
    events = _words(f"{folder}/memory.events.local")
    stat = _words(f"{folder}/memory.stat")
    cached = max(0, stat.get("file", 0) - stat.get("shmem", 0))
    return ControlGroup(folder, used, limit, events.get("max", 0), events.get("oom_kill", 0), cached)


def _v1(folder: str) -> ControlGroup:
    used = _number(read(f"{folder}/memory.usage_in_bytes")) or 0
    limit = _number(read(f"{folder}/memory.limit_in_bytes"))
    kills = _words(f"{folder}/memory.oom_control").get("oom_kill", 0)
    stat = _words(f"{folder}/memory.stat")
    cached = max(0, stat.get("total_cache", 0) - stat.get("total_shmem", 0))
    return ControlGroup(folder, used, limit, _number(read(f"{folder}/memory.failcnt")) or 0, kills, cached)


def _words(path: str) -> dict[str, int]:
    """Return the numbers by name in a file of ``name number`` lines."""
    pairs = (line.partition(" ")[::2] for line in read(path).splitlines())
    return {name: number for name, text in pairs if (number := _number(text)) is not None}


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Return (root within the hierarchy, mount point) by controller; "" is the unified hierarchy."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            mounts.setdefault("", (fields[3], fields[4]))
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                if option in ("memory", "freezer"):
                    mounts.setdefault(option, (fields[3], fields[4]))
    return mounts


def _folders(mount: str, mounted_root: str, path: str) -> list[str]:
    """Return the group's folder and those above it, up to the mount."""
    inside = path[len(mounted_root) :] if mounted_root != "/" and path.startswith(mounted_root) else path
    parts = [part for part in inside.split("/") if part and part != ".."]
    return ["/".join([mount, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _number(text: str) -> int | None:
    text = text.strip()
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 25 else None
    return None if value is None or value >= _NO_LIMIT else value
