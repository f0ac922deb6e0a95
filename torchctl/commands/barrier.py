"""`torchctl barrier`: inspect a barrier, join it for a missing rank, or release the others."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import click

from torchctl.commands.grouping import GroupedCommand
from torchctl.commands.store_options import (
    confirm,
    debug_asked,
    json_option,
    open_session,
    prefix_option,
    store_option,
    timeout_option,
    unicode_only,
    yes_option,
)
from torchctl.commands.types import Number
from torchctl.errors import StoreError, StoreInterruptedError, StoreTimeoutError, StoreUnreachableError
from torchctl.render.barrier import barrier_json, barrier_line
from torchctl.render.json import document
from torchctl.render.waiting import WaitLine
from torchctl.storeutil.operator.barrier import join_barrier, look_at_barrier, release_barrier
from torchctl.storeutil.operator.hosting import stay_until_left
from torchctl.storeutil.operator.session import StoreSession, look_s
from torchctl.storeutil.sockets import is_local
from torchctl.text import duration, printable


@click.command("barrier", cls=GroupedCommand)
@store_option(required=False)
@click.option(
    "--world-size", type=Number(1, 1_000_000), metavar="N", required=True, help="The number of ranks that meet."
)
@click.option("--rank", type=Number(0), metavar="R", help="Join as rank R, so that others can see that it has arrived.")
@click.option(
    "--key-prefix",
    metavar="P",
    default="torchctl/barrier",
    show_default=True,
    callback=unicode_only,
    help="The barrier's key.",
)
@prefix_option
@timeout_option(300)
@click.option("--count", type=Number(1), metavar="K", default=1, help="Join for K ranks at once.")
@click.option("--status", is_flag=True, help="Show who has arrived, without joining.")
@click.option("--release", is_flag=True, help="Release the waiting ranks without the missing ones.")
@click.option("--serve", is_flag=True, help="Host the store here if no other process does, until all ranks have left.")
@yes_option
@json_option
def command(
    address: tuple[str, int] | None,
    world_size: int,
    rank: int | None,
    key_prefix: str,
    namespace: str,
    timeout_s: float,
    count: int,
    status: bool,
    release: bool,
    serve: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Join a barrier of the job, see who is missing, or release it.

    By default, barrier joins and waits until all ranks have arrived. The keys are torch's own, so this command and
    ranks in torch's store barrier release each other. Use each key prefix for one barrier only.
    """
    if status + release + serve > 1:
        raise click.UsageError("use only one of --status, --release and --serve")
    if rank is not None and count > 1:
        raise click.UsageError("--rank is for a single rank; do not combine it with --count")
    if rank is not None and rank >= world_size:
        raise click.UsageError(f"--rank {rank} must be less than --world-size {world_size}")
    if count > world_size:
        raise click.UsageError(f"--count {count} must not exceed --world-size {world_size}")
    if address is None and not serve:
        raise click.UsageError("--store HOST:PORT is required, unless --serve hosts a store here")
    session, hosted = _session(address, namespace, serve, as_json)
    if status:
        _status(session, world_size, key_prefix, as_json)
    elif release:
        _release(session, world_size, key_prefix, yes, as_json)
    elif hosted:
        with _hosting(session):
            _join(session, world_size, key_prefix, timeout_s, rank, count, as_json)
    else:
        _join(session, world_size, key_prefix, timeout_s, rank, count, as_json)


def _session(address: tuple[str, int] | None, namespace: str, serve: bool, as_json: bool) -> tuple[StoreSession, bool]:
    """Return the session, and whether its store runs in this process."""
    if address is None:
        session = StoreSession(socket.gethostname(), 0, namespace, debug=debug_asked())
    else:
        try:
            return open_session(address, namespace), False
        except StoreUnreachableError as error:
            if not serve or not isinstance(error.__cause__, ConnectionRefusedError):
                raise
            if not is_local(address[0]):
                raise StoreUnreachableError(
                    f"{error}; --serve can host a store on this host only, and {address[0]} is another host"
                ) from error
        session = StoreSession(*address, namespace, debug=debug_asked())
    try:
        session.host()
    except StoreError as error:
        if address is None:
            raise
        try:
            return open_session(address, namespace), False  # another process started serving a moment earlier
        except StoreUnreachableError:
            raise error from None
    click.echo(f"hosting the store {session.name}", err=address is not None or as_json)
    return session, True


@contextmanager
def _hosting(session: StoreSession) -> Iterator[None]:
    """Keep the store alive after the block until the others have left, even after a timeout: they may still wait."""
    try:
        try:
            yield
        except StoreTimeoutError as error:
            _stay(session, f"{error}; ")
            raise
        _stay(session)
    except StoreInterruptedError as error:
        raise StoreInterruptedError(f"{error}; the store {session.name} ends with this process") from error


def _stay(session: StoreSession, before: str = "") -> None:
    def show(others: int) -> None:
        click.echo(f"hosting the store until {others} more have left", err=True)

    try:
        stay_until_left(session.port, show)
    except KeyboardInterrupt:
        raise StoreInterruptedError(f"{before}interrupted before everyone had left") from None


def _status(session: StoreSession, world_size: int, key_prefix: str, as_json: bool) -> None:
    state = session.run(lambda store, stop: look_at_barrier(store, key_prefix, world_size), limit_s=look_s(world_size))
    click.echo(document("barrier", barrier_json(state, "status")) if as_json else barrier_line(state))


def _release(session: StoreSession, world_size: int, key_prefix: str, yes: bool, as_json: bool) -> None:
    state = session.run(lambda store, stop: look_at_barrier(store, key_prefix, world_size), limit_s=look_s(world_size))
    if not yes and state.ranks.arrived and not state.released:
        click.echo(barrier_line(state), err=True)
        confirm("Release the waiting ranks without the missing ones?")
    key = session.run(lambda store, stop: release_barrier(store, key_prefix), changes=True)
    name = f"{session.namespace}/{key}" if session.namespace else key
    if as_json:
        click.echo(document("barrier", {**barrier_json(state, "release"), "complete": True, "wrote": name}))
    else:
        arrived = state.ranks.arrived
        of = f" of {world_size}" if arrived <= world_size else ""
        click.echo(f"wrote {printable(name)}: {arrived}{of} {'is' if arrived == 1 else 'are'} released")


def _join(
    session: StoreSession,
    world_size: int,
    key_prefix: str,
    timeout_s: float,
    rank: int | None,
    count: int,
    as_json: bool,
) -> None:
    line = WaitLine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM withdraws the arrival, as Ctrl-C does
    try:
        elapsed_s = session.run(
            lambda store, stop: join_barrier(
                store,
                world_size,
                key_prefix,
                timeout_s=timeout_s,
                stop=stop,
                rank=rank,
                count=count,
                progress=lambda arrived, elapsed: line.show(f"arrived {arrived} of {world_size}", elapsed),
            ),
            changes=True,
            limit_s=timeout_s + look_s(world_size),
        )
    finally:
        line.close()
    if as_json:
        result = {
            "action": "join",
            "key_prefix": key_prefix,
            "world_size": world_size,
            "joined": count,
            "elapsed_s": round(elapsed_s, 3),
            "complete": True,
        }
        click.echo(document("barrier", result))
    else:
        click.echo(f"barrier `{printable(key_prefix)}` passed after {duration(elapsed_s)}, {world_size} ranks")
