"""Render a diagnosis: the verdict, then which rank, where it is, what it does, who waits, and the next step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from rich.text import Text

from torchctl.diagnosis.evidence import Place
from torchctl.diagnosis.findings.words import ranks_of
from torchctl.diagnosis.model import DEATHS, Diagnosis, Finding, ProcessName
from torchctl.ranks import few_ranks
from torchctl.render.console import console, text
from torchctl.render.nccl_trace_words import clock
from torchctl.render.nextstep import Files, next_step
from torchctl.stacks.source import source_line

MAX_EVIDENCE = 8
MAX_FINDINGS = 10
MAX_FAILED = 4
MAX_NAMES = 4
_LABEL = re.compile(r"   (?:culprit|where|waiting|operation|who waits|victims|evidence) +|next: |\d+\. ")


def print_diagnosis(diagnosis: Diagnosis, places: Mapping[int, Place], files: Files | None) -> None:
    """Print a diagnosis on stdout; `files` is as in `next_step`."""
    out = console()
    for line in lines_of(diagnosis, places, files):
        for part in _folded(line, out.width) if out.is_terminal else (line,):
            out.print(part, soft_wrap=True)


def lines_of(diagnosis: Diagnosis, places: Mapping[int, Place], files: Files | None = None) -> Iterator[Text]:
    """Yield the lines of the screen."""
    style = {True: "bold green", False: "bold red", None: "bold yellow"}[diagnosis.healthy]
    yield text(diagnosis.verdict, style)
    for number, finding in enumerate(diagnosis.findings[:MAX_FINDINGS]):
        yield Text()
        yield from _finding(number, finding, places)
    if len(diagnosis.findings) > MAX_FINDINGS:
        yield Text(f"and {len(diagnosis.findings) - MAX_FINDINGS} more; --json has all of them", "dim")
    # Without findings, the verdict line already shows the first one.
    unknown = diagnosis.unknown if diagnosis.findings else diagnosis.unknown[1:]
    if unknown:
        yield Text()
        yield Text("not known:")
        for fact in unknown[:MAX_EVIDENCE]:
            yield text(f"  {fact}")
    yield Text()
    yield text(_ranks_line(diagnosis), "dim")
    if diagnosis.processes:
        yield text(f"processes whose rank is not known: {_names(diagnosis.processes)}", "dim")
    if diagnosis.findings:
        yield from _without_evidence(diagnosis)
    step = next_step(diagnosis, places, files)
    if step:
        yield text(f"next: {step}")


def _finding(number: int, finding: Finding, places: Mapping[int, Place]) -> Iterator[Text]:
    cause = "" if finding.caused_by is None else f", follows from {finding.caused_by + 1}"
    said = f": {finding.summary}" if number else ""  # the verdict line already shows the first one
    yield text(f"{number + 1}. {finding.kind} ({finding.confidence}{cause}){said}", "bold")
    for rank in finding.culprit_ranks[:4]:
        facts = _place_words(places.get(rank))
        if facts:
            yield text(f"   culprit   rank {rank}, {facts}")
    for process in finding.culprit_processes[:4]:
        yield text(f"   culprit   {process.name}")
    if finding.location is not None:
        at = finding.location
        yield text(f"   where     {at.who}: {at.file}:{at.line} in {at.function}")
        source = source_line(at.file, at.line)
        if source:
            yield text(f"               {source}", "bold")
    if finding.collective is not None:
        made, group = finding.collective, finding.group
        waited = finding.waiting_ranks or finding.waiting_processes
        what = f"   waiting   {made.op}" if waited else f"   operation {made.op}"
        if made.seq_id is not None:
            what += f", sequence id {made.seq_id}"
        if group is not None:
            desc = f" ({group.desc})" if group.desc not in ("", "undefined", group.name) else ""
            what += f", group {group.name or '?'}{desc}"
        if made.since_ns is not None:
            what += f", since {clock(made.since_ns)}"
        yield text(what)
    if finding.waiting_ranks or finding.waiting_processes:
        label = "victims  " if finding.kind in DEATHS else "who waits"
        yield text(f"   {label} {_waiting(finding)}")
    for fact in finding.evidence[:MAX_EVIDENCE]:
        yield text(f"   evidence  {fact}")
    if len(finding.evidence) > MAX_EVIDENCE:
        yield text(f"             and {len(finding.evidence) - MAX_EVIDENCE} more", "dim")


def _ranks_line(diagnosis: Diagnosis) -> str:
    size = "" if diagnosis.world_size is None else f" of {diagnosis.world_size}"
    folded = few_ranks(diagnosis.seen)
    line = f"ranks seen: {folded or 'none'}"
    line += size if folded.endswith(")") else f" ({len(diagnosis.seen)}{size})"
    return f"{line}; missing: {few_ranks(diagnosis.missing)}" if diagnosis.missing else line


def _without_evidence(diagnosis: Diagnosis) -> Iterator[Text]:
    """Yield why there is no evidence from ranks that no finding mentions."""
    told = {rank for finding in diagnosis.findings[:MAX_FINDINGS] for rank in finding.culprit_ranks}
    reasons: dict[str, list[int]] = {}
    for rank, reason in sorted(diagnosis.failed.items()):
        if rank not in told:
            reasons.setdefault(reason, []).append(rank)
    for reason, ranks in list(reasons.items())[:MAX_FAILED]:
        yield text(f"  {ranks_of(ranks)}: {reason}")
    rest = [rank for ranks in list(reasons.values())[MAX_FAILED:] for rank in ranks]
    if rest:
        yield text(f"  and {ranks_of(rest)}; --json has the reasons", "dim")


def _counted(ranks: Sequence[int]) -> str:
    """Return the ranks and their number, without repeating the number."""
    folded = few_ranks(ranks)
    return folded if folded.endswith(")") else f"{folded} ({len(ranks)} rank{'s' * (len(ranks) > 1)})"


def _waiting(finding: Finding) -> str:
    said = [_counted(finding.waiting_ranks)] if finding.waiting_ranks else []
    return " and ".join(said + ([_names(finding.waiting_processes)] if finding.waiting_processes else []))


def _names(processes: Sequence[ProcessName]) -> str:
    """Return the names of the first processes, and how many there are."""
    shown = ", ".join(process.name for process in processes[:MAX_NAMES])
    return shown if len(processes) <= MAX_NAMES else f"{shown}, ... ({len(processes)} processes)"


def _place_words(place: Place | None) -> str:
    """Return "host node1, pid 102", or as much of it as is known."""
    facts = []
    if place is not None and place.host:
        facts.append(f"host {place.host}")
    if place is not None and place.pid is not None:
        facts.append(f"pid {place.pid}")
    return ", ".join(facts)


def _folded(line: Text, width: int) -> Iterator[Text]:
    """Yield a line wrapped to a terminal's width, continued below its first word; no word is cut."""
    label = _LABEL.match(line.plain)
    indent = " " * (len(label[0]) if label else len(line.plain) - len(line.plain.lstrip()) + 2)
    parts = wrap(line.plain, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for part in parts or [""]:
        yield Text(part, line.style)
