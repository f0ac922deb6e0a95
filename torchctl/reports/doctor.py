"""Everything known about one process on this host: what it is, whether it answers, what blocks it, where it is.

How this works: /proc comes first, since it always answers, then the process's own server, then py-spy. Nothing stops,
signals or changes the process. Processes that never had a server are covered too.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from torchctl.errors import WorkerError
from torchctl.process.memory import ControlGroup, group_of
from torchctl.process.reasons import Reason, lock_waiters, reasons
from torchctl.process.samples import Sample, read, sample, status_fields
from torchctl.process.sockets import listening_path
from torchctl.process.started import age_s
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.stacks.reader import parse_stacks
from torchctl.stacks.stack import Stacks
from torchctl.text import duration
from torchctl.workers import causes
from torchctl.workers.ask.fanout import ask_one
from torchctl.workers.ask.outcome import is_stopped
from torchctl.workers.ask.outside import identity_of
from torchctl.workers.ask.reply import degraded_words
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import call_question, ping

_BETWEEN_LOOKS_S = 1.0
_STATES = {
    "R": "running",
    "S": "asleep",
    "D": "in uninterruptible sleep",
    "T": "stopped by a signal",
    "t": "stopped by a tracer",
    "Z": "dead, not reaped by its parent",
    "I": "idle",
}


@dataclass(slots=True)
class Report:
    """One process.

    Attributes:
        verdict: one sentence.
        well: whether it answers or, without a server, nothing keeps it from running.
        facts: name and text, in display order.
        reasons: why it cannot answer.
        stacks: its threads, from py-spy; None if they could not be read.
    """

    pid: int
    verdict: str = ""
    well: bool = True
    facts: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    stacks: Stacks | None = None


def examine(pid: int, path: str, deadline: float) -> Report:
    """Return what is known about a process.

    Args:
        path: its server's socket; "" to look for one.
        deadline: for the server's answer and py-spy, in `time.monotonic` seconds; the two looks take extra time.
    """
    report = Report(pid)
    before, group_before = sample(pid), group_of(pid)
    if before.state in ("", "X"):
        return _gone(report, path)
    _identity(report, before.start_ticks)
    path = path or listening_path(pid)
    began = time.monotonic()
    answer = _server(report, path, deadline)
    left = _BETWEEN_LOOKS_S - (time.monotonic() - began)
    if left > 0:
        time.sleep(left)
    after, group_after = sample(pid), group_of(pid)
    report.reasons = reasons(before, after, 0, (group_before, group_after))
    _state(report, before, after)
    _memory(report, after, group_after)
    _stacks(report, Endpoint(path=path) if answer == "pong" else Endpoint(pid=pid), deadline)
    _judge(report, path, answer)
    return report


def _gone(report: Report, path: str) -> Report:
    report.well = False
    words = [word for word in causes.last_words() if word.pid == report.pid or (path and word.endpoint == path)]
    if words:
        report.verdict = f"process {report.pid} {causes.death(words[0])}"
        report.facts.append(("last word", words[0].path))
    else:
        report.verdict = f"there is no process {report.pid}, and it left no last word"
    return report


def _identity(report: Report, started: int | None) -> None:
    words = [word for word in read(f"/proc/{report.pid}/cmdline").split("\0") if word]
    # The options may hold a password.
    shown = list(itertools.takewhile(lambda word: not word.startswith("--"), words[:4]))
    name = " ".join(shown) or f"[{read(f'/proc/{report.pid}/comm').strip()}]"
    report.facts.append(("program", f"{name} ..." if len(words) > len(shown) else name))
    worker = causes.sentinel_of(report.pid)
    if worker is not None:
        report.facts.append(("role", f"the sentinel of process {worker}"))
    try:
        about = identity_of(Endpoint(pid=report.pid))
    except WorkerError:
        return  # it has just ended
    if about.rank is not None:
        of = "" if about.world_size is None else f" of {about.world_size}"
        report.facts.append(("rank", f"{about.rank}{of}"))
    if about.job_id is not None:
        report.facts.append(("job", about.job_id))
    age = age_s(started)
    if age is not None:
        report.facts.append(("up", duration(int(age))))


def _server(report: Report, path: str, deadline: float) -> str:
    """Ask the process's server; return "pong", what is wrong, or "" if it has no server."""
    if not path:
        report.facts.append(("server", "none: it does not listen on a worker's socket"))
        return ""
    outcome = ask_one(Endpoint(path=path), ping, deadline)
    if is_stopped([outcome]):
        raise KeyboardInterrupt
    if outcome.value is None:
        assert outcome.error is not None
        answer = text = outcome.error.detail
    else:
        answer = degraded_words(outcome.identity) or "pong"
        text = (
            f"answers, {duration(outcome.value.elapsed_s)}" if answer == "pong" else f"its sentinel answers: {answer}"
        )
    report.facts.append(("server", f"{path}: {text}"))
    pid = causes.sentinels().get(report.pid)
    report.facts.append(
        ("sentinel", "none: nothing answers for the process when it cannot" if pid is None else f"pid {pid}")
    )
    return answer


def _state(report: Report, before: Sample, after: Sample) -> None:
    main = after.threads.get(report.pid)
    count = len(after.threads)
    where = f" in {main.wait}" if main is not None and main.wait else ""
    report.facts.append(
        ("state", f"{_STATES.get(after.state, after.state)}{where}, {count} thread{'s' * (count != 1)}")
    )
    stuck = any(one.kind == "lock_held" for one in report.reasons)
    waiters = len(lock_waiters(before, after))
    if stuck:
        report.facts.append(
            ("interpreter lock", f"held for the whole second between two looks; {waiters} waiting for it")
        )
    elif waiters:
        report.facts.append(("interpreter lock", f"changes hands; {waiters} threads compete for it"))
    else:
        report.facts.append(("interpreter lock", "no thread is waiting for it"))


def _memory(report: Report, after: Sample, group: ControlGroup) -> None:
    status = status_fields(f"/proc/{report.pid}/status")
    resident = status.get("VmRSS", "0 kB").partition(" ")[0]
    text = f"{int(resident) / 1024:.0f} MiB resident" if resident.isdigit() else "?"
    if after.swap_kib:
        text += f", {after.swap_kib / 1024:.0f} MiB swapped out"
    if group.limit is not None:
        text += f"; its control group has {group.used / (1 << 20):.0f} of {group.limit / (1 << 20):.0f} MiB"
    report.facts.append(("memory", text))


def _stacks(report: Report, endpoint: Endpoint, deadline: float) -> None:
    """Take the stacks from the process's own server, which knows what threads are calling, or from py-spy."""
    question = call_question("dump_traceback", {CALLS_PARAMETER: "true"}, b"")
    outcome = ask_one(endpoint, question, max(deadline, time.monotonic() + 2.0))
    if is_stopped([outcome]):
        raise KeyboardInterrupt
    if outcome.value is None:
        assert outcome.error is not None
        report.facts.append(("stacks", outcome.error.detail))
        return
    try:
        report.stacks = parse_stacks(outcome.value.body)
    except ValueError as error:
        report.facts.append(("stacks", f"there are none: {error}"))


def _judge(report: Report, path: str, answer: str) -> None:
    why = "; ".join(one.text for one in report.reasons)
    if answer == "pong":
        report.verdict = f"process {report.pid} answers for itself" + (f"; {why}" if why else "")
    elif path:
        report.well = False
        report.verdict = f"process {report.pid} cannot answer: {why or answer}"
    elif why:
        report.well = False
        report.verdict = f"process {report.pid} has no server: {why}"
    else:
        report.verdict = f"process {report.pid} has no server, and /proc shows nothing that blocks it"
