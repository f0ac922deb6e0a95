"""What the sentinel knows about its worker, and how it says so."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from torchctl.process import lastword
from torchctl.process.lastword import LastWord
from torchctl.process.reasons import Reason
from torchctl.process.started import age_s, start_time
from torchctl.protocol import compact_json
from torchctl.protocol.identity import Identity
from torchctl.protocol.info import info_document
from torchctl.server.sentinel.handover import Handover
from torchctl.server.sentinel.page import Page, Words

HANDLERS = ("dump_traceback", "info", "ping")
NATIVE_HANDLERS = ("dump_nccl_trace_json", "fr_trace_json")


class Degraded(NamedTuple):
    """Why the worker does not answer.

    Attributes:
        since: when a client was first seen waiting, in seconds since the epoch.
        reasons: strongest first; never empty.
        lock_held: two samples a second apart showed the server's thread waiting for the interpreter lock.
    """

    since: float
    reasons: tuple[Reason, ...]
    lock_held: bool

    def words(self) -> str:
        """Return the reasons on one line."""
        return "; ".join(reason.text for reason in self.reasons)


class State:
    """The worker as it was handed over, as the shared page shows it, and as it is now.

    Attributes:
        degraded: None while the worker answers for itself.
        recent: the last `degraded` before the worker answered again; None if it has always answered.
    """

    def __init__(self, worker: Handover, page: Page) -> None:
        self.worker = worker
        self.degraded: Degraded | None = None
        self.recent: Degraded | None = None
        self._page = page

    def words(self) -> Words:
        """Return what the worker last wrote into the shared page."""
        return self._page.read()

    def place(self) -> tuple[int | None, int | None]:
        """Return rank and world size, as last written or else as handed over."""
        words = self.words()
        if words.rank is not None:
            return words.rank, words.world_size
        return self.worker.rank, self.worker.world_size

    def answers_again(self) -> None:
        """Note that the worker answers for itself again."""
        self.recent, self.degraded = self.degraded or self.recent, None

    def identity(self) -> Identity:
        """Return who the worker is."""
        rank, world_size = self.place()
        return Identity(rank, self.worker.pid, world_size, self.worker.job_id, self.words().step)

    def header_lines(self, *, outside: bool) -> list[str]:
        """Return the header lines that say whose answer it is, and why the worker did not give it.

        Args:
            outside: the answer comes from outside, or could not be obtained: it is not the worker's own, even if the
                worker answers again by now.
        """
        identity = self.identity()
        why = self.degraded or (self.recent if outside else None)
        if why is not None:
            identity = identity._replace(degraded=why.words(), since=why.since)
        return identity.header_lines()

    def sentence(self) -> str:
        """Return since when and why the worker does not answer."""
        if self.degraded is None:
            return "the worker answers again"
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.degraded.since))
        return f"degraded since {since}: {self.degraded.words()}"

    def info(self) -> dict[str, Any]:
        """Return what `info` answers in the worker's place, without what only the worker knows."""
        words, degraded = self.words(), self.degraded
        return info_document(
            self.identity(),
            host=self.worker.host,
            time=time.time(),
            start_time=start_time(self.worker.start_ticks),
            uptime_s=age_s(self.worker.start_ticks),
            server_version=self.worker.version,
            handlers=self.handlers(),
            step_time=words.step_time,
            sentinel=os.getpid(),
            degraded=None
            if degraded is None
            else {
                "since": degraded.since,
                "reason": degraded.words(),
                "evidence": [reason._asdict() for reason in degraded.reasons],
            },
        )

    def handlers(self) -> list[str]:
        """Return the names of the handlers that we answer in the worker's place."""
        return sorted([*HANDLERS, *(NATIVE_HANDLERS if self.worker.native else ())])

    def last_word(self, died: float, status: int | None, *, kills: bool) -> LastWord:
        """Return what we keep about a worker that has died.

        Args:
            status: as `waitpid` gives it; None if it could not be seen.
            kills: the kernel's out-of-memory killer ran in its control group.
        """
        rank, world_size = self.place()
        notes = [] if self.degraded is None else [f"was {self.sentence()}"]
        notes += ["the out-of-memory killer ran in its control group"] if kills else []
        worker, signal = self.worker, lastword.signal_in(status)
        return LastWord(
            worker.pid,
            died,
            lastword.in_words(status),
            rank,
            world_size,
            worker.job_id,
            worker.host,
            self.words().step,
            "; ".join(notes),
            worker.address,
            exit_code=lastword.exit_code_in(status),
            signal=signal,
            started=start_time(worker.start_ticks),
            attempt=worker.attempt,
            out_of_memory=kills and signal in ("SIGKILL", ""),
            witness="sentinel",
        )


def as_json(document: object) -> bytes:
    """Return JSON as the worker sends it."""
    return compact_json(document).encode()
