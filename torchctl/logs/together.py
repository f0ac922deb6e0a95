"""The logs of one job taken together: whose each line is, and which lines still count.

How this works. A rank that a line states counts. A local rank of torchrun (`[default3]:`, attempt_0/3/stderr.log) and a
task of `srun --label` are taken for the rank only if the job has one node, as far as the logs show: no two folders of
torchrun, and no line that states another rank below such a prefix. Of several attempts of torchrun, and of what came
before a restart in a log, only the last counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from torchctl.logs.facts import LogFacts
from torchctl.logs.said import Ended, Event, Log, Raised, Speaker
from torchctl.logs.whose import Tree, task_of, tree_of

_AGENT = re.compile(r"(\d{1,10}) torch/distributed/elastic")
_GOES_ON = 3  # lines after the end of a worker
S = TypeVar("S", Event, Raised, Ended)


def facts_of(logs: Iterable[Log]) -> LogFacts:
    """Return what logs say together."""
    logs = list(logs)
    facts = LogFacts(count=len(logs))
    trees = {id(log): tree for log in logs if (tree := tree_of(log.file.source)) is not None}
    logs = _last_attempts(logs, trees, facts.notes)
    one_node, tasks = _is_one_node(logs, trees), _tasks_are_ranks(logs)
    for log in logs:
        since = _restarted_at(log)
        if since:
            facts.notes.append(f"{log.file.source}: ignored what comes before the restart in line {since}")
        whose = _Whose(log, trees.get(id(log)), one_node, tasks)
        facts.ranks.update(log.ranks)
        if whose.file.rank is not None:
            facts.ranks.add(whose.file.rank)
        facts.events += whose.ranked(log.events, since)
        facts.raised += whose.ranked(log.raised, since)
        facts.ended += whose.ranked(log.ended, since)
    facts.ranks.update(one.who.rank for one in facts.raised if one.who.rank is not None)
    for event in facts.events:
        facts.take(event)
    return facts


def _last_attempts(logs: list[Log], trees: Mapping[int, Tree], notes: list[str]) -> list[Log]:
    """Leave out the logs of earlier attempts."""
    last: dict[str, int] = {}
    for tree in trees.values():
        last[tree.run] = max(last.get(tree.run, 0), tree.attempt)
    kept = []
    for log in logs:
        of = trees.get(id(log))
        if of is None or of.attempt == last[of.run]:
            kept.append(log)
    if len(kept) < len(logs):
        latest = max(last.values())
        notes.append(
            f"{len(logs) - len(kept)} logs of earlier attempts of torchrun are ignored; attempt_{latest} counts"
        )
    return kept


def _restarted_at(log: Log) -> int:
    """Return the line after which the last attempt begins; 0 if there was only one.

    torchrun says that it restarts the workers only at log level INFO. Otherwise it is seen by what follows: the same
    agent sees another worker fail, or the log goes on and the agent does not give up.
    """
    said = max((one.line.number for one in log.events if one.pattern.name == "elastic_restart"), default=0)
    gave_up = max((one.line.number for one in log.raised if one.kind.endswith("ChildFailedError")), default=0)
    failed: dict[str, list[int]] = {}
    for one in log.ended:
        if "failed (exitcode" in one.line.text:
            agent = _AGENT.search(one.line.text)
            failed.setdefault("" if agent is None else agent[1], []).append(one.line.number)
    for numbers in failed.values():
        said = max(said, *numbers[:-1], 0)
        if not gave_up and not any(one.root for one in log.ended) and log.lines - numbers[-1] > _GOES_ON:
            said = max(said, numbers[-1])
    return said


def _is_one_node(logs: Iterable[Log], trees: Mapping[int, Tree]) -> bool:
    """Whether nothing contradicts that local ranks are ranks."""
    for log in logs:
        tree = trees.get(id(log))
        if tree is not None and any(rank != tree.local_rank for rank in log.ranks):
            return False
        if any(who.rank is not None and who.local_rank not in (None, who.rank) for who in _speakers(log)):
            return False
    return len({tree.run for tree in trees.values()}) < 2


def _tasks_are_ranks(logs: Iterable[Log]) -> bool:
    """Whether nothing contradicts that Slurm's tasks are ranks: torchrun in each task has ranks of its own."""
    for log in logs:
        if any(one.pattern.name.startswith("elastic") for one in log.events):
            return False
        if any(one.who.local_rank is not None for one in log.ended):
            return False
        if any(who.rank is not None and who.task not in (None, who.rank) for who in _speakers(log)):
            return False
    return True


def _speakers(log: Log) -> list[Speaker]:
    return [*log.speakers, *(one.who for one in log.events), *(one.who for one in log.raised)]


class _Whose:
    """The ranks behind the speakers of one log."""

    def __init__(self, log: Log, tree: Tree | None, one_node: bool, tasks: bool) -> None:
        file = log.file
        if file.rank is None and tree is not None:
            stated = next(iter(log.ranks)) if len(log.ranks) == 1 else None
            rank = stated if stated is not None else tree.local_rank if one_node else None
            file = replace(file, rank=rank, local_rank=tree.local_rank)
        elif file.rank is None and tasks:
            file = replace(file, rank=task_of(file.source.rpartition("/")[2]))
        self.file = file
        self._bare = log.file
        self._one_node, self._tasks = one_node, tasks
        self._stated = {(who.local_rank, who.label, who.host): who.rank for who in log.speakers if who.rank is not None}

    def ranked(self, said: Iterable[S], since: int) -> list[S]:
        """Return what was said after a line, with the ranks of who said it."""
        found: list[S] = []
        for one in said:
            if one.line.number > since:
                who = self._who(one.who)
                found.append(one if who == one.who else replace(one, who=who))
        return found

    def _who(self, who: Speaker) -> Speaker:
        if who.rank is not None:
            return who
        if who == self._bare:
            return self.file
        if (rank := self._stated.get((who.local_rank, who.label, who.host))) is not None:
            return replace(who, rank=rank)
        if who.local_rank is not None:
            return replace(who, rank=who.local_rank if self._one_node else None)
        if who.task is not None:
            return replace(who, rank=who.task if self._tasks else None)
        return replace(who, rank=self.file.rank)
