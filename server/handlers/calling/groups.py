"""The process groups of this process, from torch.distributed's own tables, which list the members of gloo groups too.

Source: torch/distributed/distributed_c10d.py (torch 2.13), `_World` and the tables it exposes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchctl.protocol.calls import MAX_GROUPS, MAX_TEXT
from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.guest.outstanding import Begun
from torchctl.server.handlers.calling.objects import text_of, whole_of

_MODULE = "torch.distributed.distributed_c10d"
# By group name: the id and size of its table of members, and the members as runs. A group's table never changes.
_runs_of: dict[str, tuple[int, int, list[list[int]]]] = {}


class Groups:
    """This process's groups; calls refer to them by their index in `documents`.

    Attributes:
        complete: False if there were too many.
    """

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self._places: list[tuple[Any, int]] = []
        self._members: list[dict[int, int]] = []  # per group: global rank to rank in the group
        self._default: int | None = None
        module = loaded(_MODULE)
        tables = vars(module) if module is not None else {}
        world = tables.get("_world")
        default = getattr(world, "default_pg", None)
        names = list(dict(tables.get("_pg_names") or {}).items())
        self.complete = len(names) <= MAX_GROUPS
        bindings = c10d()
        classes = list(vars(bindings).values()) if bindings is not None else []
        for group, name in names[:MAX_GROUPS]:
            if group is default:
                self._default = len(self.documents)
            # A class of the job may run the job's code, in its methods and in its hash.
            ours = any(type(group) is one for one in classes)
            members = (tables.get("_pg_group_ranks") or {}).get(group) or {} if ours else {}
            backend = (tables.get("_pg_backend_config") or {}).get(group, "") if ours else ""
            self._places.append((group, len(self.documents)))
            self._members.append(members)
            one = _document(group if ours else None, str(name)[:MAX_TEXT], members, str(backend)[:MAX_TEXT])
            self.documents.append({**one, "default": group is default})
        for name in _runs_of.keys() - {one["name"] for one in self.documents}:
            _runs_of.pop(name, None)

    def place(self, group: Any) -> int | None:
        """Return a group's index (for None the default group's, as in torch), or None if it is not one of ours."""
        if group is None:
            return self._default
        return next((place for one, place in self._places if one is group), None)

    def global_rank(self, place: int | None, rank: int | None) -> int | None:
        """Return the global rank of a rank in a group, or None if either is unknown."""
        if place is None or rank is None:
            return None
        return next((one for one, within in list(self._members[place].items()) if within == rank), None)

    def sent_or_received(self, begun: Begun) -> dict[str, Any]:
        """Return the document of a recorded send or receive: its peer as a global rank, its group as an index."""
        place = next((at for at, one in enumerate(self.documents) if one["name"] == begun.group), None)
        peer = self.global_rank(place, whole_of(begun.peer))
        known = {"operation": begun.operation, "peer": peer, "tag": whole_of(begun.tag)}
        return known | {"group": place, "since": begun.since}

    def forget(self) -> None:
        """Release the groups themselves."""
        self._places.clear()


def _document(group: Any, name: str, members: dict[int, int], backend: str) -> dict[str, Any]:
    """Return what is known about a group; if `group` is None, since it must not be asked, only its name."""
    return {
        "name": name,
        "description": text_of(_asked(lambda: group.group_desc)) or "",
        "ranks": _runs(name, members),
        "rank": whole_of(_asked(lambda: group.rank())),
        "backend": backend,
        # A counter of this process, read without taking a lock and without releasing the interpreter's.
        "sequence": whole_of(_asked(lambda: group._get_sequence_number_for_group())),
    }


def _asked(question: Any) -> Any:
    """Return torch's answer, or None if it raises."""
    try:
        return question()
    except Exception:
        return None


def _runs(name: str, members: dict[int, int]) -> list[list[int]]:
    """Return global ranks as runs; computed once per group, since a large job has many with a thousand members."""
    known = _runs_of.get(name)
    if known is None or known[:2] != (id(members), len(members)):
        known = _runs_of[name] = (id(members), len(members), runs(members))
    return known[2]


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Return sorted numbers as runs [first, last, step]."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found:
            run = found[-1]
            first, last, step = run
            if first == last or number - last == step:
                run[1:] = [number, number - last] if first == last else [number, step]
                continue
        found.append([number, number, 1])
    return found
