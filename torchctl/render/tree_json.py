"""Render merged stacks as JSON: the classes, and the tree as nested branches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from torchctl.ranks import Member
from torchctl.stacks.merge import CALL, Branch, Merged, StackClass
from torchctl.stacks.stack import StackFrame

_MAX_DEPTH = 200  # json.dumps and most readers are recursive; the classes show the rest


def job_json(job_id: str | None, world_size: int | None, merged: Merged) -> dict[str, Any]:
    """Return a job with ``classes`` (smallest first, frames innermost first) and ``tree`` (frames outermost first)."""
    return {
        "job_id": job_id,
        "world_size": world_size,
        "classes": [_class(one) for role in merged.roles for one in role.classes],
        "tree": [
            {"role": role.role, "threads": role.threads, **members_json(role.members), "branches": _tree(role.branches)}
            for role in merged.roles
        ],
        "without_main_thread": members_json(merged.without_main),
    }


def _class(one: StackClass) -> dict[str, Any]:
    return {
        "role": one.role,
        "complete": one.complete,
        "threads": one.threads,
        "moving": None if one.moving is None else members_json(one.moving),
        **_frames(one.frames),
        **members_json(one.members),
    }


def _tree(branches: list[Branch]) -> list[dict[str, Any]]:
    """Return nested branches, built without recursion and cut off below the depth that JSON readers can handle."""
    out: list[dict[str, Any]] = []
    todo = deque((branch, out, 0) for branch in branches)
    while todo:
        branch, siblings, depth = todo.popleft()
        children: list[dict[str, Any]] = []
        siblings.append(
            {
                **_frames(branch.frames),
                "complete": branch.complete,
                "threads": branch.threads,
                "moving": None if branch.moving is None else members_json(branch.moving),
                **members_json(branch.members),
                "branches": children,
            }
        )
        if depth < _MAX_DEPTH:
            todo.extend((child, children, depth + 1) for child in branch.children)
    return out


def _frames(frames: Sequence[StackFrame]) -> dict[str, Any]:
    """Return frames, and the ``call`` that their threads are in below them, or None if it is not known."""
    call = next((frame.function for frame in frames if frame.file == CALL), None)
    return {"frames": [_frame(frame) for frame in frames if frame.file != CALL], "call": call}


def _frame(frame: StackFrame) -> dict[str, Any]:
    return {"file": frame.file, "line": frame.line, "function": frame.function, "origin": frame.origin}


def members_json(members: Sequence[Member]) -> dict[str, list[int] | list[str]]:
    """Return members for JSON: ranks as numbers, other workers by name."""
    return {
        "ranks": [member for member in members if isinstance(member, int)],
        "workers": [member for member in members if isinstance(member, str)],
    }
