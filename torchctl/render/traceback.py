"""Render workers' stacks as text: the user's own lines stand out, torch's and Python's are dimmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from torchctl.render.console import text
from torchctl.stacks import codepaths
from torchctl.stacks.calls import note_of, waited_for_by
from torchctl.stacks.role import rank_thread
from torchctl.stacks.source import source_line
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

_STYLES = {"user": "", "library": "dim", "torch": "dim", "python": "dim", "native": "dim"}


def traceback_lines(stacks: Stacks, *, all_threads: bool, colour: bool) -> Iterator[Text]:
    """Yield one worker's stacks with the most recent call last, as in a Python traceback.

    Args:
        stacks: the worker's threads.
        all_threads: show every thread except the debug server's own, which are only counted; else show the main
            thread (or the training thread that it waits for) and any thread that this one waits for.
        colour: highlight source lines, which requires importing Pygments.
    """
    own = [thread for thread in stacks.threads if thread.own]
    if not all_threads:
        shown = rank_thread(stacks)
        if shown is None:
            yield Text("  this worker did not send its main thread; see --all-threads", "bold")
        else:
            yield from _thread_lines(stacks, shown, colour)
        waited_for = None if shown is None else waited_for_by(stacks, shown)
        if waited_for is not None and waited_for is not shown:
            yield from _thread_lines(stacks, waited_for, colour)
        others = len(stacks.threads) - len(own) - len({id(one) for one in (shown, waited_for) if one is not None})
        if others:
            yield Text(f"  {others} more thread{'s' * (others > 1)}: --all-threads", "dim")
        return
    for thread in sorted(stacks.threads, key=lambda thread: not thread.main):
        if thread not in own:
            yield from _thread_lines(stacks, thread, colour)
    if own:
        yield Text(f"  not shown: {len(own)} thread{'s' * (len(own) > 1)} of torchctl's own server", "dim")
    if stacks.truncated:
        yield Text("  some threads are missing: faulthandler prints at most 100", "bold")


def _thread_lines(stacks: Stacks, thread: ThreadStack, colour: bool) -> Iterator[Text]:
    name = thread.name or ("main thread" if thread.main else "thread")
    yield text(f"  {name} (0x{thread.ident:x})", "bold cyan")
    if not thread.complete:
        yield Text("      ... outer frames cut off", "dim")
    if not thread.frames:
        yield Text("      no Python frame", "dim")
    users = thread.users_frame
    shown = len(thread.frames) - _startup_frames(thread)
    if shown < len(thread.frames):
        yield Text(f"      ... {len(thread.frames) - shown} frames of Python startup", "dim")
    for index in range(shown - 1, -1, -1):
        yield from _frame_lines(thread.frames[index], index == users, colour)
    note = note_of(stacks, thread, exact=True)
    if note:
        yield Text("      in ", "dim") + text(note, "bold yellow")


def _startup_frames(thread: ThreadStack) -> int:
    """Return how many of the outermost frames only start things (runpy, threading, our own launcher)."""
    for count, frame in enumerate(reversed(thread.frames)):
        if frame.origin != "python":
            return count if count > 1 else 0
    return 0  # all frames are Python's own: show them


def _frame_lines(frame: StackFrame, users: bool, colour: bool) -> Iterator[Text]:
    style = "bold" if users else _STYLES[frame.origin]
    line = Text("    > " if users else "      ", "bold yellow" if users else "")
    line.append_text(text(codepaths.short(frame.file), style))
    line.append(f":{frame.line}" if frame.line else ":?", style)
    line.append(" in ", "dim")
    line.append_text(text(frame.function, style))
    yield line
    source = source_line(frame.file, frame.line) if frame.origin in ("user", "library") else ""
    if source:
        yield Text("          ") + (_highlighted(source) if colour else text(source))


def _highlighted(source: str) -> Text:
    from rich.syntax import Syntax

    from torchctl.text import printable

    shown = Syntax("", "python", theme="ansi_dark").highlight(printable(source))
    shown.rstrip()
    return shown


def stacks_json(stacks: Stacks) -> dict[str, Any]:
    """Return one worker's stacks for JSON: frames innermost first, each with whose code it is."""
    return {
        "truncated": stacks.truncated,
        "threads": [
            {
                "id": thread.ident,
                "name": thread.name,
                "main": thread.main,
                "complete": thread.complete,
                "call": note_of(stacks, thread, exact=True) or None,
                "users_frame": thread.users_frame,
                "frames": [
                    {"file": frame.file, "line": frame.line, "function": frame.function, "origin": frame.origin}
                    for frame in thread.frames
                ],
            }
            for thread in stacks.threads
        ],
    }
