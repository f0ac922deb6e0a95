"""Gathers evidence from live workers: two looks at every rank, to distinguish a stuck job from a slow one.

How this works. The first look takes only the recorders' counters. After an interval, the second look takes a digest
(the newest entries of each group), the counters again, and the Python stacks. A rank whose counters changed has moved.
What a first diagnosis finds is then examined closely: whole traces of the ranks involved, which show what came before,
and frames of the few ranks it names, which cost a worker a second the first time. A rank whose counters change during
that has moved too, and keeps its digest: evidence from two moments could accuse the wrong rank. Workers that are too
slow for the first look are asked in parallel (`latecomers`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torchctl.diagnosis.evidence import Evidence, Place
from torchctl.diagnosis.model import Diagnosis
from torchctl.errors import NoWorkersError, TorchctlError
from torchctl.process.lastword import LastWord
from torchctl.reports.computing import watch_computing
from torchctl.reports.lastwords import add_deaths, of_dead_job, of_running_job
from torchctl.reports.latecomers import Latecomers
from torchctl.reports.sightings import LateStacks, Seen, add_late_stacks, add_stacks, evidence_of, has_moved, seen_of
from torchctl.workers.ask.outcome import Outcome, is_stopped, stopped
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import is_late, stands_still
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.outside import NO_ANSWER, OUTSIDE_S, look_from_outside, stacks_question
from torchctl.workers.questions.look import Sight, sight_question
from torchctl.workers.roll import Roll, find_workers
from torchctl.workers.survey import survey
from torchctl.workers.targets import Targets

MAX_FRAMES_FROM = 4  # ranks whose frames are worth costing each a second
MAX_TRACES_FROM = 32  # ranks whose history is worth 300 kB each
# Deadlines as shares of the time allowed: for the first look at workers of normal speed; for everything from slow
# workers, leaving time to read them from outside; for the second look.
_BY = (0.3, 0.8, 0.7)
_LEAST_S = 2.0  # for whole traces, even past the deadline
Judge = Callable[[Evidence], Diagnosis]  # what evidence shows; decides which ranks to examine more closely
_KINDS_OF_LATE = ("not_entered", "p2p_mismatch")
_KINDS_WITH_FRAMES = ("op_mismatch", "shape_mismatch", "dtype_mismatch", "order_cycle", "straggler")


@dataclass(slots=True)
class _Answers:
    """What the workers answered: at both looks, and their stacks."""

    first: list[Outcome[Sight]]
    second: list[Outcome[Sight]] = field(default_factory=list)
    stacks: list[Outcome[Reply]] = field(default_factory=list)
    interrupted: bool = False

    def any(self) -> bool:
        """Whether any worker has answered."""
        return any(one.value is not None for one in self.first) or any(one.value is not None for one in self.stacks)

    def add(self, late: Latecomers) -> None:
        """Add the latecomers' answers; after an interrupt, mark those without one as interrupted."""
        newer = {one.endpoint: one for one in late.first}
        self.first = [newer.get(one.endpoint, one) for one in self.first]
        if self.interrupted:
            self.first = [
                Outcome(one.endpoint, None, stopped(one.endpoint), one.identity) if _may_still_answer(one) else one
                for one in self.first
            ]
        self.second = self.second + late.second
        self.stacks = self.stacks + late.stacks


def look(targets: Targets, interval_s: float, judge: Judge, *, everything: bool = False) -> Evidence:
    """Return the evidence of all live workers that the options name.

    Args:
        targets: which workers to ask, and the total time allowed, not counting the interval.
        interval_s: seconds between the two looks.
        judge: `diagnosis.diagnose`; what it finds at first is examined more closely.
        everything: take whole traces of all ranks instead of digests, to save them.

    Raises:
        NoWorkersError: no worker answers, and none has left a last word.
        TorchctlError: two workers claim one rank.
    """
    try:
        return _look_at_workers(targets, interval_s, judge, everything=everything)
    except NoWorkersError:
        dead = of_dead_job(targets)
        if dead is None:
            raise
        return dead


def _look_at_workers(targets: Targets, interval_s: float, judge: Judge, *, everything: bool) -> Evidence:
    roll = find_workers(targets)
    begun = time.monotonic()
    answers = _ask(roll, interval_s, "traces" if everything else "digest", begun)
    seen = seen_of(answers.first, answers.second)
    seen.interrupted = answers.interrupted
    if not seen.interrupted:  # partial stacks prove nothing: a rank without stacks would look idle
        add_stacks(seen, answers.stacks)
        end = max(begun + targets.timeout_s + interval_s, time.monotonic() + OUTSIDE_S)
        outside = look_from_outside(list(seen.slow), end)
        for endpoint, reply in outside:
            place = Place(os.uname().nodename, reply.pid)
            stacks = LateStacks(endpoint, reply.body, reply.answered_at, place, NO_ANSWER)
            add_late_stacks(seen, reply.rank, stacks)
        if not outside and not answers.any():
            raise _nobody()
    words = _last_words(targets, seen)
    evidence = _evidence(seen, words)
    if not seen.endpoints or seen.interrupted:
        return evidence
    return _closer(evidence, judge, seen, roll, everything, words)


def _last_words(targets: Targets, seen: Seen) -> list[LastWord]:
    """Return the last words of the ranks of the job that gave nothing."""
    infos = [sight.info for sight in seen.sights.values()]
    starts = [info.start_time for info in infos if info.start_time is not None]
    jobs = {info.job_id for info in infos}
    words = of_running_job(targets, jobs, min(starts, default=None), seen.world_size)
    return [word for word in words if word.rank not in seen.sights and word.rank not in seen.late]


def _evidence(seen: Seen, words: list[LastWord]) -> Evidence:
    evidence = evidence_of(seen)
    add_deaths(evidence, words)
    return evidence


def _ask(roll: Roll, interval_s: float, second_look: str, begun: float) -> _Answers:
    """Look at all workers twice, take their stacks, and wait for the slower ones."""
    first, late, second = (begun + share * roll.targets.timeout_s for share in _BY)
    question = sight_question(second_look)
    found = _Answers(survey(roll.until(first), sight_question("counters")).outcomes)
    found.interrupted = is_stopped(found.first)
    good = _without_doubles(found.first)
    slow = [one.endpoint for one in found.first if _may_still_answer(one)]
    if not good and found.interrupted:
        raise KeyboardInterrupt
    if not good and not slow and not any(one.value is not None for one in found.first):
        raise _nobody()
    latecomers = None
    if slow and not found.interrupted:
        latecomers = Latecomers(roll.only(slow), interval_s, question, late + interval_s)
    found.interrupted = found.interrupted or not _waited(interval_s)
    if good and not found.interrupted:
        found.second = survey(roll.only(good).until(second + interval_s), question).outcomes
        found.interrupted = is_stopped(found.second)
    there = [one.endpoint for one in found.second if one.value is not None or is_late(one.error)]
    there += [one.endpoint for one in (*found.first, *found.second) if one.identity.degraded is not None]
    there = list(dict.fromkeys(there))
    if there and not found.interrupted:
        # A separate request: torch's own server hangs on stacks while the interpreter lock is held.
        end = begun + roll.targets.timeout_s + interval_s
        found.stacks = survey(roll.only(there).until(end), stacks_question()).outcomes
        found.interrupted = is_stopped(found.stacks)
    if latecomers is not None:
        found.interrupted = found.interrupted or not latecomers.wait()
        found.add(latecomers)
        _without_doubles(found.first)
    return found


def _nobody() -> NoWorkersError:
    return NoWorkersError("no worker answers", hint="`torchctl ps` lists what was found")


def _may_still_answer(one: Outcome[Sight]) -> bool:
    """Whether a worker missed its deadline but may still answer."""
    # At each look, a relay asks all workers on its host, so late ones there are asked again anyway.
    return is_late(one.error) and not one.endpoint.node and not stands_still(one.endpoint)


def _waited(seconds: float) -> bool:
    """Wait; return False if the operator interrupts."""
    try:
        threading.Event().wait(seconds)
    except KeyboardInterrupt:
        return False
    return True


def watching(targets: Targets, interval_s: float, judge: Judge, *, everything: bool = False) -> Evidence:
    """Look repeatedly and return the first evidence that something is wrong; arguments and errors as in `look`.

    If interrupted during a look, return what that look gathered; between two looks, return the last one's evidence.
    """
    evidence = None
    while True:
        try:
            evidence = look(targets, interval_s, judge)
            if not evidence.interrupted and everything and judge(evidence).healthy is False:
                evidence = look(targets, interval_s, judge, everything=True)
            if evidence.interrupted or judge(evidence).healthy is False:
                return evidence
            threading.Event().wait(interval_s)
        except KeyboardInterrupt:
            if evidence is None:
                raise
            evidence.ended = True
            return evidence


def _without_doubles(outcomes: Iterable[Outcome[Sight]]) -> list[Endpoint]:
    """Return the workers that answered.

    Raises:
        TorchctlError: two of them claim one rank.
    """
    claims: dict[int, Endpoint] = {}
    answered = []
    for one in outcomes:
        if one.value is None or one.value.degraded:
            continue
        answered.append(one.endpoint)
        rank = one.value.rank
        if rank in claims:
            raise TorchctlError(
                f"rank {rank} is claimed by two workers: {claims[rank]} and {one.endpoint}",
                hint="two jobs are running here: pick one with --job, or give its sockets with --socket",
            )
        if rank is not None:
            claims[rank] = one.endpoint
    return answered


def _closer(
    evidence: Evidence, judge: Judge, seen: Seen, roll: Roll, everything: bool, words: list[LastWord]
) -> Evidence:
    """Take whole traces of the ranks that a first diagnosis involves, and frames of those it names, or of all."""
    first = judge(evidence)
    history, frames = _worth_more(first)
    looks = {rank: (seen.first[rank], seen.sights[rank]) for rank in _accused(first) if rank in seen.first}
    until = time.monotonic() + _LEAST_S
    seen.computing = watch_computing(looks, seen.endpoints, seen.stacks, roll, until)
    fetched = bool(seen.computing)
    wanted = {"frames": frames, "traces": history - frames}
    if everything:  # we have whole traces; with frames they match those of `collect`
        wanted = {"frames": set(seen.sights)}
    least_s = roll.targets.timeout_s if everything else _LEAST_S
    for kind, ranks in wanted.items():
        ends = {str(seen.endpoints[rank]): rank for rank in ranks if rank in seen.endpoints}
        if not ends:
            continue
        asked = roll.only([seen.endpoints[rank] for rank in ends.values()])
        outcomes = survey(asked.until(time.monotonic() + least_s), sight_question(kind)).outcomes
        if is_stopped(outcomes):
            evidence.interrupted = True
            return evidence  # the first diagnosis stays
        for one in outcomes:
            rank = ends.get(str(one.endpoint))
            if one.value is None or one.value.degraded or rank is None:
                continue
            if has_moved(seen.sights[rank], one.value):
                seen.moved.add(rank)
            elif one.value.traces:
                seen.sights[rank] = one.value
            fetched = True
    return _evidence(seen, words) if fetched else evidence


def _accused(diagnosis: Diagnosis) -> list[int]:
    """Return the ranks that others are said to wait for."""
    return [rank for one in diagnosis.findings if one.kind in _KINDS_OF_LATE for rank in one.culprit_ranks]


def _worth_more(diagnosis: Diagnosis) -> tuple[set[int], set[int]]:
    """Return the ranks whose history may show more than the digest, and those whose frames locate their calls."""
    history: list[int] = []
    frames: list[int] = []
    for finding in diagnosis.findings:
        if finding.kind in _KINDS_WITH_FRAMES:
            frames += finding.culprit_ranks
        members = finding.group.ranks if finding.group is not None else finding.waiting_ranks
        history += [*finding.culprit_ranks, *members]
    return set(list(dict.fromkeys(history))[:MAX_TRACES_FROM]), set(frames[:MAX_FRAMES_FROM])
