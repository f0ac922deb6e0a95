"""The process groups that this process is in, as torch.distributed's own tables have them: gloo's members too.

Source: torch/distributed/distributed_c10d.py (torch 2.13), `_World` and the tables it shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchctl.protocol.calls import MAX_GROUPS, MAX_TEXT
from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.guest.outstanding import Begun
from torchctl.server.handlers.calling.objects import text_of, whole_of

_MODULE = "torch.distributed.distributed_c10d"
# By a group's name: what its members were when they were last written as runs. A group's table never changes.
_runs_of: dict[str, tuple[int, int, list[list[int]]]] = {}


class Groups:
    """This process's groups; their places in `documents` are what calls refer to.

    Attributes:
        complete: False where there are too many.
    """

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self._places: list[tuple[Any, int]] = []
        self._members: list[dict[int, int]] = []  # of each, its global ranks and theirs in the group
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
            # A class of the job's has code of its own, in its methods and in its hash.
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
        """Return a group's place; that of the default group for None, as torch takes it; None for no group of ours."""
        if group is None:
            return self._default
        return next((place for one, place in self._places if one is group), None)

    def global_rank(self, place: int | None, rank: int | None) -> int | None:
        """Return a rank of a group as a rank of the job; None where either is unknown."""
        if place is None or rank is None:
            return None
        return next((one for one, within in list(self._members[place].items()) if within == rank), None)

    def sent_or_received(self, begun: Begun) -> dict[str, Any]:
        """Return the document of a recorded send or receive: its peer as a global rank, its group as a place."""
        place = next((at for at, one in enumerate(self.documents) if one["name"] == begun.group), None)
        peer = self.global_rank(place, whole_of(begun.peer))
        known = {"operation": begun.operation, "peer": peer, "tag": whole_of(begun.tag)}
        return known | {"group": place, "since": begun.since}

    def forget(self) -> None:
        """Let go of the groups themselves."""
        self._places.clear()


def _document(group: Any, name: str, members: dict[int, int], backend: str) -> dict[str, Any]:
    """Return what is known of a group; of None, one that is not to be asked, the name alone."""
    return {
        "name": name,
        "description": text_of(_asked(lambda: group.group_desc)) or "",
        "ranks": _runs(name, members),
        "rank": whole_of(_asked(lambda: group.rank())),
        "backend": backend,
        # A counter of the process's own, read without a lock and without letting go of the interpreter's.
        "sequence": whole_of(_asked(lambda: group._get_sequence_number_for_group())),
    }


def _asked(question: Any) -> Any:
    """Return what torch answers, None where it has no answer."""
    try:
        return question()
    except Exception:
        return None


def _runs(name: str, members: dict[int, int]) -> list[list[int]]:
    """Return global ranks as runs; written once for each group, since a large job has many of a thousand members."""
    known = _runs_of.get(name)
    if known is None or known[:2] != (id(members), len(members)):
        known = _runs_of[name] = (id(members), len(members), runs(members))
    return known[2]


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers, sorted, as runs [first, last, step]."""
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
