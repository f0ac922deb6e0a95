"""`torchctl store`: inspect and change a job's store."""

from __future__ import annotations

import fnmatch
import threading

import click

from torchctl.commands.grouping import GroupedCommands
from torchctl.commands.store_options import (
    confirm,
    json_option,
    open_session,
    prefix_option,
    read_value,
    store_option,
    timeout_option,
    unicode_only,
    yes_option,
)
from torchctl.commands.types import Number
from torchctl.errors import KeyAbsentError, StoreError, StoreInterruptedError
from torchctl.render.json import document
from torchctl.render.store_values import (
    key_rows,
    keys_json,
    keys_table,
    single_keys,
    value_json,
    value_line,
    value_text,
)
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.operator.families import KeyGroup, describe, family_of, sort_keys, wanted_values
from torchctl.storeutil.operator.reading import list_keys, read_values, wait_for_keys
from torchctl.storeutil.operator.session import ANSWER_S, StoreSession
from torchctl.storeutil.operator.values import as_counter, classify, preview
from torchctl.text import duration, printable

# How many values `keys --all` reads at once, each at most 8 MiB: more if they are small and time allows.
_LEAST_AT_ONCE, _MOST_AT_ONCE = 4, 64
_SMALL = 1 << 20  # bytes
_READING_S = 30.0


@click.group("store", cls=GroupedCommands)
def command() -> None:
    """Read and change the keys in the job's store.

    Nothing here waits for an absent key unless you ask for it.
    """


@command.command("keys")
@store_option()
@prefix_option
@click.argument("pattern", required=False)
@click.option("--all", "show_all", is_flag=True, help="One line per key: key, kind, value.")
@json_option
def keys(address: tuple[str, int], namespace: str, pattern: str | None, show_all: bool, as_json: bool) -> None:
    """List the keys and what torch uses them for.

    Keys that belong together share a line. PATTERN selects keys by shell wildcards: 'b*/num_members'.
    """
    session = open_session(address, namespace)

    def listed(store: OperatorStore) -> list[str]:
        found = list_keys(store)
        return fnmatch.filter(found, pattern) if pattern is not None else found

    if show_all and not as_json:
        _print_all(session, session.run(lambda store, stop: listed(store)))
        return

    def grouped(store: OperatorStore) -> tuple[list[KeyGroup], dict[str, bytes]]:
        found = sort_keys(listed(store))
        groups = describe(found, read_values(store, wanted_values(found)))
        return groups, {} if as_json else read_values(store, single_keys(key_rows(groups)[0]))

    groups, values = session.run(lambda store, stop: grouped(store))
    if as_json:
        click.echo(document("store.keys", keys_json(groups)))
        return
    rows, left_out = key_rows(groups)
    if rows:
        from rich.console import Console

        Console().print(keys_table(rows, values))
    else:
        click.echo("no keys" if pattern is None else "no key matches", err=True)
    if left_out:
        click.echo(f"and {left_out} more lines; --all prints every key", err=True)


@command.command("get")
@store_option()
@prefix_option
@click.argument("key", callback=unicode_only)
@click.option("--wait", "wait", is_flag=True, help="If the key is absent, wait for it.")
@timeout_option(300)
@json_option
def get(address: tuple[str, int], namespace: str, key: str, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Print the value of KEY.

    Text and counters are printed as they are, pickled objects as their structure, and anything else in hex.
    """
    session = open_session(address, namespace)
    if wait:
        _wait(session, [key], timeout_s)
    value = _read(session, key)
    if value is None:
        raise KeyAbsentError(f"{printable(key)} is absent from the store {session.name}")
    if as_json:
        click.echo(document("store.get", value_json(value, key)))
    else:
        click.echo(value_text(value, key))


@command.command("set")
@store_option()
@prefix_option
@click.argument("key", callback=unicode_only)
@click.argument("value")
@yes_option
def set_(address: tuple[str, int], namespace: str, key: str, value: str, yes: bool) -> None:
    """Set KEY to VALUE, to the content of @FILE, or to stdin (-)."""
    data = read_value(value)
    session = open_session(address, namespace)
    old = _read(session, key)
    _ask(key, "set", yes)
    session.run(lambda store, stop: store.set(key, data), changes=True)
    was = f", was {_old(old)}" if old is not None else ""
    click.echo(f"{printable(key)}: wrote {_bytes(data)}{was}")


@command.command("add")
@store_option()
@prefix_option
@click.argument("key", callback=unicode_only)
@click.argument("amount", metavar="N", type=Number(-(2**62), 2**62))
def add(address: tuple[str, int], namespace: str, key: str, amount: int) -> None:
    """Add N to the counter KEY, which starts at 0.

    Write -- before a negative N.
    """
    session = open_session(address, namespace)

    def checked_add(store: OperatorStore, stop: threading.Event) -> tuple[int, bytes | None]:
        # The server closes the connection if it is asked to add to a value that is not a number.
        old = read_values(store, [key]).get(key)
        number = 0 if old is None else as_counter(old)
        if old is not None and number is None:
            raise StoreError(f"{printable(key)} is not a counter: {_old(old)}; nothing was added")
        if number is not None and as_counter(str(number + amount).encode()) is None:
            raise StoreError(f"{printable(key)} is {number}: the sum does not fit in 64 bits; nothing was added")
        if stop.is_set():
            raise StoreInterruptedError("interrupted; nothing was added")
        return store.add(key, amount), old

    now, old = session.run(lambda store, stop: checked_add(store, stop), changes=True)
    click.echo(f"{printable(key)}: {now}, was {'absent' if old is None else old.decode()}")


@command.command("delete")
@store_option()
@prefix_option
@click.argument("key", callback=unicode_only)
@yes_option
def delete(address: tuple[str, int], namespace: str, key: str, yes: bool) -> None:
    """Delete KEY."""
    session = open_session(address, namespace)
    old = _read(session, key)
    if old is None:
        raise KeyAbsentError(f"{printable(key)} is absent from the store {session.name}; nothing was deleted")
    _ask(key, "delete", yes)
    if not session.run(lambda store, stop: store.delete_key(key), changes=True):
        raise KeyAbsentError(f"{printable(key)} disappeared before it could be deleted")
    click.echo(f"{printable(key)}: deleted, was {_old(old)}")


@command.command("wait")
@store_option()
@prefix_option
@click.argument("key_list", metavar="KEY...", nargs=-1, required=True, callback=unicode_only)
@timeout_option(300)
def wait(address: tuple[str, int], namespace: str, key_list: tuple[str, ...], timeout_s: float) -> None:
    """Wait until every KEY exists."""
    elapsed_s = _wait(open_session(address, namespace), list(key_list), timeout_s)
    click.echo(f"present after {duration(elapsed_s)}: {printable(', '.join(key_list))}")


def _read(session: StoreSession, key: str) -> bytes | None:
    return _read_some(session, [key]).get(key)


def _wait(session: StoreSession, key_list: list[str], timeout_s: float) -> float:
    def show(absent: list[str], elapsed_s: float) -> None:
        click.echo(f"waiting for {printable(', '.join(absent))}", err=True)

    return session.run(
        lambda store, stop: wait_for_keys(store, key_list, timeout_s=timeout_s, stop=stop, progress=show),
        limit_s=timeout_s + ANSWER_S,
    )


def _ask(key: str, verb: str, yes: bool) -> None:
    """Ask for confirmation before changing one of torch's own keys."""
    meaning = family_of(key)
    if meaning is not None and not yes:
        question = f"{printable(key)} is torch's own ({meaning}). {verb.capitalize()} it?"
        confirm(question)


def _old(value: bytes) -> str:
    return f"{preview(value)!r} ({_bytes(value)})" if value else "empty"


def _bytes(value: bytes) -> str:
    return f"{len(value)} byte{'' if len(value) == 1 else 's'}"


def _print_all(session: StoreSession, found: list[str]) -> None:
    """Print every key with its value, read a few at a time, because together they may not fit in memory."""
    from torchctl.flightrec import Guard

    count, start = _LEAST_AT_ONCE, 0
    with Guard() as guard:
        while some := found[start : start + count]:
            values = _read_some(session, some, limit_s=_READING_S)
            for key, value in values.items():
                click.echo(f"{printable(key)}\t{classify(value).value}\t{value_line(value, guard)}")
            start += count
            small = sum(map(len, values.values())) < _SMALL
            count = min(2 * count, _MOST_AT_ONCE) if small else _LEAST_AT_ONCE


def _read_some(session: StoreSession, some: list[str], *, limit_s: float = ANSWER_S) -> dict[str, bytes]:
    return session.run(lambda store, stop: read_values(store, some), limit_s=limit_s)
