"""`torchctl traceback`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from torchctl.commands.finish import finish
from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.options import worker_options
from torchctl.commands.types import Number, Seconds
from torchctl.errors import TorchctlError
from torchctl.render.failures import failures_json, reasons
from torchctl.reports.stacks import Choice, JobStacks, ask_stacks, merge_jobs, read_stacks
from torchctl.workers.questions.basic import WorkerStacks
from torchctl.workers.survey import Survey
from torchctl.workers.targets import Targets

if TYPE_CHECKING:
    from torchctl.render.tree import TreeStyle


@click.command(cls=GroupedCommand)
@click.option("--all-threads", is_flag=True, help="Show every thread, not only the main one.")
@click.option("--thread", metavar="NAME", help="Only threads with this name or role (main, autograd, data-loader ...).")
@click.option("--classes", is_flag=True, help="List groups of equal stacks with their ranks, instead of a tree.")
@click.option("--full", is_flag=True, help="Show every frame; by default torch's and Python's own are folded.")
@click.option(
    "--samples",
    type=Number(1, 1000),
    metavar="K",
    default=1,
    show_default=True,
    help="Ask K times, and mark each branch as moving or still.",
)
@click.option("--interval", type=Seconds(), default=1.0, show_default=True, help="Pause between two samples.")
@worker_options
@click.option(
    "--file", "more", multiple=True, type=click.Path(), metavar="PATH", help="A file or folder of stacks. Repeatable."
)
@click.argument("files", nargs=-1, type=click.Path(), metavar="[PATH]...")
def command(
    targets: Targets,
    all_threads: bool,
    thread: str | None,
    classes: bool,
    full: bool,
    samples: int,
    interval: float,
    more: tuple[str, ...],
    files: tuple[str, ...],
) -> None:
    """Show where every worker is in its Python code.

    Equal stacks are shown once: first what all ranks share, then the branches, the smallest on top. The most recent
    call comes last; `>` marks the innermost frame of the user's own code.

    If a worker cannot answer (stopped, interpreter lock held), its stack is read from outside and shown separately,
    with the reason. Given a PATH, traceback reads stacks from there: a folder with traceback_rank_N.txt files, or one
    such file (faulthandler's text or py-spy's).
    """
    choice = Choice(all_threads, thread, samples, interval)
    paths = [*files, *more]
    if paths and (targets.names_any() or targets.ranks is not None or samples > 1):
        raise click.UsageError("options for live workers cannot be combined with a PATH")
    if paths:
        result, motion = read_stacks(paths), None
    else:
        result, motion = ask_stacks(targets, choice)
    alone = len(result.outcomes) == 1 and not (classes or thread or samples > 1)
    told = False
    if targets.as_json:
        click.echo(_json(result, merge_jobs(result.answered, choice, motion)))
    elif alone:
        _print_one(result, all_threads)
    else:
        from torchctl.render.spans import line_width
        from torchctl.render.tree import TreeStyle as Style

        jobs = merge_jobs(result.answered, choice, motion)
        if thread is not None and jobs and not any(job.merged.roles for job in jobs):
            raise _no_such_thread(thread, jobs)
        style = Style(line_width(), full, samples, 1 if motion is None else motion.taken)
        told = _print_merged(result, jobs, classes=classes, style=style)
    finish(result, told=told, degraded_told=True)


def _no_such_thread(thread: str, jobs: list[JobStacks]) -> TorchctlError:
    roles = sorted({role for job in jobs for role in job.merged.hidden} | {"main"})
    return TorchctlError(f"no worker has a thread named {thread!r}", hint=f"the threads are: {', '.join(roles)}")


def _print_one(result: Survey[WorkerStacks], all_threads: bool) -> None:
    from torchctl.render.console import console, text
    from torchctl.render.traceback import traceback_lines

    out = console()
    colour = out.is_terminal and not out.no_color
    for endpoint, answer in result.answers:
        pid = "" if answer.pid is None else f"  pid {answer.pid}"
        rank = "rank ?" if answer.rank is None else f"rank {answer.rank}"
        out.print(text(f"{rank}{pid}  {endpoint}", "bold"), soft_wrap=True)
        if answer.degraded is not None:
            out.print(text(f"  read from outside: {answer.degraded}", "red"), soft_wrap=True)
        for line in traceback_lines(answer.stacks, all_threads=all_threads, colour=colour):
            out.print(line, soft_wrap=True)


def _print_merged(result: Survey[WorkerStacks], jobs: list[JobStacks], *, classes: bool, style: TreeStyle) -> bool:
    """Print the header and each job's stacks; return whether the screen already shows the failures."""
    from torchctl.render.spans import print_lines, shorten
    from torchctl.render.tree import class_lines, header_lines, outside_lines, tree_lines

    print_lines(header_lines(jobs, reasons(result, style.width), style))
    for job in jobs:
        if len(jobs) > 1:
            print_lines([[], [(shorten(f"job {job.job_id or '?'}", style.width), "bold")]])
        print_lines(outside_lines(job, style))
        if job.members:
            print_lines([[]])
            print_lines((class_lines if classes else tree_lines)(job.merged, style))
    return sys.stdout.isatty()


def _json(result: Survey[WorkerStacks], jobs: list[JobStacks]) -> str:
    from torchctl.render.json import document
    from torchctl.render.traceback import stacks_json
    from torchctl.render.tree_json import job_json

    workers: list[dict[str, Any]] = [
        {
            "rank": answer.rank,
            "pid": answer.pid,
            "endpoint": str(endpoint),
            "degraded": answer.degraded,
            **stacks_json(answer.stacks),
        }
        for endpoint, answer in result.answers
    ]
    merged = [
        {
            **job_json(job.job_id, job.world_size, job.merged),
            "outside": [
                {"reason": one.reason, **job_json(job.job_id, job.world_size, one.merged)} for one in job.outside
            ],
        }
        for job in jobs
    ]
    return document("traceback", {"workers": workers, "jobs": merged, **failures_json(result)})
