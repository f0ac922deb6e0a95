"""Render merged stacks as text: the trunk that ranks share, then its branches, smallest first.

How this works: each branch is a heading (how many ranks, which ones, moving or still) and its frames, outermost
first. Runs of torch's and Python's own frames are folded into one line, unless `full`. Lines are cut to the width,
paths at the front, so that file, line and function stay readable at 80 columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchctl.render.members import counted, folded
from torchctl.render.spans import Line, Span, shorten, shorten_path
from torchctl.reports.stacks import JobStacks
from torchctl.stacks import codepaths
from torchctl.stacks.merge import CALL, Branch, Merged, RoleStacks, StackClass
from torchctl.stacks.role import MAIN, TRAINING
from torchctl.stacks.source import source_line
from torchctl.stacks.stack import StackFrame

_FOLDED = ("torch", "python", "native")
_NAMES = {"torch": "torch", "python": "Python", "native": "C++"}
_LEAST_FUNCTION, _LEAST_PATH = 12, 14  # characters that a name keeps, however narrow the screen


@dataclass(frozen=True, slots=True)
class TreeStyle:
    """How merged stacks are shown.

    Attributes:
        width: columns.
        full: every frame, nothing folded.
        samples: how many samples were requested; with 2 or more, each branch says whether it moves.
        taken: how many were taken; fewer after an interrupt.
    """

    width: int
    full: bool = False
    samples: int = 1
    taken: int = 1


def header_lines(jobs: Sequence[JobStacks], reasons: Sequence[str], style: TreeStyle) -> Iterator[Line]:
    """Yield which ranks answered, then each reason why others did not."""
    for job in jobs:
        line = f"{counted(job.members)} answered"
        line += "" if job.world_size is None else f" of {job.world_size}"
        line += "" if job.job_id is None else f", job {job.job_id}"
        if style.samples > 1:
            line += f", {'' if style.taken == style.samples else f'{style.taken} of '}{style.samples} samples"
        yield [(shorten(line, style.width), "bold")]
        for one in job.outside:
            cannot = f"  {counted(one.members)} cannot answer: {folded(one.members, style.width // 3)}, {one.reason}"
            yield [(shorten(cannot, max(style.width, 60)), "red")]
    for reason in reasons:  # never cut, because the end says what happened
        for line in textwrap.wrap(reason, max(style.width - 2, 40), subsequent_indent="  ", break_on_hyphens=False):
            yield [("  " + line, "red")]


def outside_lines(job: JobStacks, style: TreeStyle) -> Iterator[Line]:
    """Yield the stacks of workers that cannot answer, as read from outside, grouped by reason."""
    for one in job.outside:
        yield []
        heading = f"read from outside: {counted(one.members)}: {folded(one.members, style.width // 3)}, {one.reason}"
        yield [(shorten(heading, max(style.width, 60)), "bold red")]
        yield from class_lines(one.merged, style)


def tree_lines(merged: Merged, style: TreeStyle) -> Iterator[Line]:
    """Yield each role's tree."""
    for number, role in enumerate(merged.roles):
        if number:
            yield []
        yield from _role_lines(role, style)
    yield from _rest(merged, style)


def _marked(branches: Sequence[Branch]) -> set[int]:
    """Return the ids of branches that hold the innermost user frame of a stack, with no other user frame below it.

    It is not recursive, because stacks may be deep.
    """
    order = list(branches)
    for branch in order:
        order += branch.children  # grows during iteration: children come after their parents
    bare: set[int] = set()  # branches with a stack that has no user frame here or further down
    marked: set[int] = set()
    for branch in reversed(order):
        open_below = not branch.children or any(id(child) in bare for child in branch.children)
        if open_below:
            has_own = codepaths.users_frame([frame.file for frame in reversed(branch.frames)]) is not None
            (marked if has_own else bare).add(id(branch))
    return marked


def class_lines(merged: Merged, style: TreeStyle) -> Iterator[Line]:
    """Yield each class, smallest first: its ranks and one representative stack, most recent call last."""
    for number, one in enumerate(one for role in merged.roles for one in role.classes):
        if number:
            yield []
        prefix = "" if len(merged.roles) == 1 and one.role == MAIN else f"{one.role}: "
        yield _heading(prefix, one, style, 0)
        if not one.complete:
            yield [("    ... outer frames cut off", "dim")]
        yield from _frames(tuple(reversed(one.frames)), style, [], marked=True)
    yield from _rest(merged, style)


def _role_lines(role: RoleStacks, style: TreeStyle) -> Iterator[Line]:
    title = f"{role.role} thread" if role.role in (MAIN, TRAINING) else role.role
    marked = _marked(role.branches)
    if len(role.branches) == 1:
        root = role.branches[0]
        yield _heading(f"{title}: ", root, style, 0)
        yield from _frames(root.frames, style, [("  ", "")] if root.children else [], marked=id(root) in marked)
        yield from _below(root.children, style, marked)
    else:
        yield [(f"{title}: {counted(role.members)} with no common frames", "bold")]
        yield from _below(role.branches, style, marked)


def _below(branches: Sequence[Branch], style: TreeStyle, marked: set[int]) -> Iterator[Line]:
    """Yield branches and everything below them; not recursive, because stacks may be deep."""
    todo = _stacked(branches, "")
    while todo:
        branch, before, last = todo.pop()
        indent = _indent(before, style.width)
        yield [
            (indent, "dim"),
            ("└─ " if last else "├─ ", "dim"),
            *_heading("", branch, style, len(indent) + 3),
        ]
        inner = before + ("   " if last else "│  ")
        margin = _indent(inner, style.width)
        if not branch.complete:
            yield [(margin, "dim"), ("... outer frames cut off", "dim")]
        if not branch.frames:
            yield [(margin, "dim"), ("    ends here" if branch.complete else "    no Python frame", "dim")]
        yield from _frames(branch.frames, style, [(margin, "dim")], marked=id(branch) in marked)
        todo += _stacked(branch.children, inner)


def _stacked(branches: Sequence[Branch], before: str) -> list[tuple[Branch, str, bool]]:
    return [(branch, before, index == 0) for index, branch in enumerate(reversed(branches))]


def _indent(before: str, width: int) -> str:
    """Return the indent, cut to leave at least half of the width for the frames, however deep the tree."""
    return before if len(before) <= width // 2 else "…" + before[len(before) - width // 2 + 1 :]


def _heading(prefix: str, one: Branch | StackClass, style: TreeStyle, indent: int) -> Line:
    count = counted(one.members)
    if one.threads > len(one.members):
        count += f", {one.threads} threads"
    motion = _motion(one) if style.samples > 1 else ""
    room = style.width - indent - len(prefix) - len(count) - 2 - (len(motion) + 2 if motion else 0)
    line: Line = [(prefix, "bold"), (f"{count}: {folded(one.members, max(room, 12))}", "bold cyan")]
    if motion:
        line.append((f"  {motion}", "bold yellow" if motion == "still" else "green"))
    return line


def _motion(one: Branch | StackClass) -> str:
    if one.moving is None:
        return "seen once"
    if not one.moving:
        return "still"
    return "moving" if len(one.moving) == len(one.members) else f"{len(one.moving)} of {len(one.members)} moving"


def _frames(frames: Sequence[StackFrame], style: TreeStyle, margin: Line, *, marked: bool) -> Iterator[Line]:
    """Yield a run of frames, outermost first; `marked` puts ``>`` at the innermost frame in the user's code."""
    note = frames[-1] if frames and frames[-1].file == CALL else None
    frames = frames[:-1] if note is not None else frames
    inner = codepaths.users_frame([frame.file for frame in reversed(frames)]) if marked else None
    users = -1 if inner is None else len(frames) - 1 - inner
    taken = sum(len(text) for text, _ in margin)
    index = 0
    while index < len(frames):
        end = index
        while not style.full and end < len(frames) and frames[end].origin in _FOLDED:
            end += 1
        if end - index > 1:
            yield [*margin, *_fold_line(frames[index:end], style.width - taken)]
            index = end
            continue
        yield [*margin, *_frame_line(frames[index], index == users, style.width - taken)]
        source = _source(frames[index])
        if source:
            yield [*margin, ("        " + shorten(source, style.width - taken - 8), "italic")]
        index += 1
    if note is not None:
        yield [*margin, ("    ", ""), ("in ", "dim"), (shorten(note.function, style.width - taken - 7), "bold yellow")]


def _source(frame: StackFrame) -> str:
    return source_line(frame.file, frame.line) if frame.origin in ("user", "library") else ""


def _frame_line(frame: StackFrame, marked: bool, room: int) -> Line:
    style = "bold" if marked else "" if frame.origin == "user" else "dim"
    mark: Span = ("  > ", "bold yellow") if marked else ("    ", "")
    return [mark, *_place(frame, room - 4, style)]


def _fold_line(frames: Sequence[StackFrame], room: int) -> Line:
    names = " and ".join(dict.fromkeys(_NAMES[frame.origin] for frame in frames))
    text = f"    ... {len(frames)} frames of {names}, the last: "
    return [(text, "dim"), *_place(frames[-1], room - len(text), "dim")]


def _place(frame: StackFrame, room: int, style: str) -> Line:
    """Return ``file:line in function``, with the path cut at the front if there is too little room."""
    function = shorten(frame.function, max(_LEAST_FUNCTION, room // 2))
    end = f":{frame.line or '?'}"
    path = shorten_path(codepaths.short(frame.file), max(_LEAST_PATH, room - len(end) - 4 - len(function)))
    return [(path + end, style), (" in ", "dim"), (function, style)]


def _rest(merged: Merged, style: TreeStyle) -> Iterator[Line]:
    """Yield one line for each thing that is not shown."""
    if merged.without_main:
        text = "did not send a main thread (too many threads); see --all-threads: "
        yield [(f"{counted(merged.without_main)} {text}{folded(merged.without_main, style.width)}", "bold")]
    if merged.hidden:
        listed = ", ".join(f"{role} {count}" for role, count in sorted(merged.hidden.items()))
        yield [
            (shorten(f"not shown: {sum(merged.hidden.values())} more threads ({listed}", style.width - 18), "dim"),
            ("); --all-threads", "dim"),
        ]
