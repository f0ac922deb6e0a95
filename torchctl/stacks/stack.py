"""The stacks of one worker: threads and frames."""

from __future__ import annotations

from dataclasses import dataclass

from torchctl.protocol.calls import Calls
from torchctl.protocol.stacktext import OWN_THREADS
from torchctl.stacks import codepaths

MAX_THREADS = 100_000
MAX_FRAMES = 10_000  # per thread


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One call; `line` is 0 if unknown."""

    file: str
    line: int
    function: str

    @property
    def origin(self) -> codepaths.Origin:
        """Whose code it is, judged by its path."""
        return codepaths.origin(self.file)

    @property
    def bare(self) -> str:
        """The unqualified function name: py-spy prints `Queue._feed` or `_exception_logger.<locals>.wrapper`."""
        return self.function.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """One thread: its id, its name ("" if unknown), whether it is the main one, its frames, innermost first.

    `complete` is False if the outermost frames were cut off.
    """

    ident: int
    name: str
    main: bool
    frames: tuple[StackFrame, ...]
    complete: bool = True

    @property
    def own(self) -> bool:
        """Whether it belongs to torchctl's server, not to the job."""
        return self.name.startswith(OWN_THREADS)

    @property
    def users_frame(self) -> int | None:
        """Index of the innermost frame of the user's own code; None if there is none."""
        return codepaths.users_frame([frame.file for frame in self.frames])

    @property
    def nearest_frame(self) -> int | None:
        """Index of the user's innermost frame, or of a library's if the user has none."""
        return codepaths.nearest_frame([frame.file for frame in self.frames])


@dataclass(frozen=True, slots=True)
class Stacks:
    """All threads of one worker.

    Attributes:
        truncated: the writer omitted threads, possibly the main one.
        calls: what the threads are calling; None if the worker does not say.
    """

    threads: tuple[ThreadStack, ...]
    truncated: bool = False
    calls: Calls | None = None

    @property
    def main(self) -> ThreadStack | None:
        """The main thread, or None if it is not among the threads."""
        return next((thread for thread in self.threads if thread.main), None)
