"""Detects threads at a debugger prompt, which wait for someone to type."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.stacks.stack import StackFrame

# (end of the file's path, functions, None for any) -> the debugger.
# Source: Python 3.14, IPython 9, debugpy 1.8, pudb 2025.1; torch.distributed.breakpoint is a Pdb.
_PROMPTS: tuple[tuple[str, frozenset[str] | None, str], ...] = (
    ("pdb.py", frozenset({"interaction", "_cmdloop", "user_line", "user_return", "user_exception"}), "pdb"),
    ("IPython/terminal/debugger.py", None, "IPython's debugger"),
    ("IPython/terminal/embed.py", None, "IPython"),
    ("pudb/debugger.py", frozenset({"interaction", "event_loop", "user_line"}), "pudb"),
    ("pydevd.py", frozenset({"do_wait_suspend", "_do_wait_suspend"}), "debugpy"),
    ("code.py", frozenset({"interact"}), "a Python prompt"),
)


def prompt_of(frames: Sequence[StackFrame]) -> str:
    """Return the debugger whose prompt a thread is at, such as "pdb", or "". Frames are innermost first."""
    for frame in frames:
        if frame.origin == "user":
            break
        for ending, functions, name in _PROMPTS:
            same = frame.file == ending or frame.file.endswith(f"/{ending}")
            if same and (functions is None or frame.bare in functions):
                return name
    return ""
