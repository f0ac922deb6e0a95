"""Options for the commands that use a store: each name means the same everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from torchctl.commands.grouping import OUTPUT, STORE, shared_option
from torchctl.commands.types import Seconds, Store
from torchctl.errors import StoreError
from torchctl.storeutil.operator.session import StoreSession
from torchctl.text import printable

Function = TypeVar("Function", bound=Callable[..., Any])


def store_option(*, required: bool = True) -> Callable[[Function], Function]:
    return shared_option(
        STORE,
        "--store",
        "address",
        type=Store(),
        required=required,
        envvar="TORCHCTL_STORE",
        help="The job's TCPStore: its MASTER_ADDR:MASTER_PORT. [env: TORCHCTL_STORE]",
    )


def unicode_only(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Reject keys that torch's client cannot handle: it requires text, but a shell can pass any bytes."""
    for text in value if isinstance(value, tuple) else (value,):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{printable(text)} is not UTF-8 text", ctx, param) from None
    return value


prefix_option = shared_option(
    STORE,
    "--prefix",
    "namespace",
    metavar="NS",
    default="",
    callback=unicode_only,
    help="A namespace inside the store (torch's PrefixStore).",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask before writing.")
json_option = shared_option(OUTPUT, "--json", "as_json", is_flag=True, help="Print one JSON object.")


def timeout_option(default_s: float) -> Callable[[Function], Function]:
    return click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(),
        default=default_s,
        show_default=True,
        help="Time limit for the whole wait.",
    )


def open_session(address: tuple[str, int], namespace: str) -> StoreSession:
    """Return a session with the store, which must answer now; torch is not imported yet.

    Raises:
        StoreUnreachableError: no TCPStore answers.
    """
    session = StoreSession(*address, namespace, debug=debug_asked())
    session.probe()
    return session


def debug_asked() -> bool:
    """Return whether `torchctl --debug` was given."""
    return bool(getattr(click.get_current_context().find_root().command, "debug", False))


def confirm(question: str) -> None:
    """Ask for confirmation before a write.

    Raises:
        StoreError: the answer is no, or stdin is closed.
        click.Abort: Ctrl-C.
    """
    try:
        confirmed = click.confirm(question, err=True)
    except click.Abort as abort:
        if not isinstance(abort.__context__, EOFError):  # click raises the same error for Ctrl-C and end of input
            raise
        click.echo(err=True)
        confirmed = False
    if not confirmed:
        raise StoreError("not confirmed: nothing was written")


def read_value(text: str) -> bytes:
    """Return the bytes for VALUE|@FILE|-."""
    if text == "-":
        if sys.stdin is None:
            raise click.BadParameter("standard input is closed")
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        with open(text[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}") from error
