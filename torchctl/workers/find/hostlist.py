"""Host lists such as ``node[01-04]:25[000-007]``: ClusterShell's grammar, expanded and checked.

A single address or name bypasses ClusterShell, which would read the brackets of ``[::1]:25000`` as a range. Group
names are never looked up (RESOLVER_NOGROUP), because that could run commands from a configuration file.
"""

from __future__ import annotations

import re
from typing import Any

from torchctl.errors import TorchctlError
from torchctl.text import HOST
from torchctl.workers.endpoint import Endpoint, parse_endpoint

MAX_HOSTS = 1_000_000
_IPV6 = re.compile(r"\[[^\[\]]*:[^\[\]]*\]:\d{1,5}")


class NoClusterShellError(TorchctlError):
    """A host list was given, but ClusterShell is not installed."""

    hint = "pip install 'torchctl[cluster]', or name each host"


def parse_endpoints(text: str) -> list[Endpoint]:
    """Return the endpoints for ``HOST:PORT``, ``[IPV6]:PORT`` or a list in ClusterShell's grammar.

    Raises:
        ValueError: the text is none of these, or contains an invalid host name.
        NoClusterShellError: the text is a list, and ClusterShell is not installed.
    """
    if not is_list(text):
        return [parse_endpoint(text)]
    plain, numeric = _parted(text)
    return [parse_endpoint(name) for name in [*(_unfolded(plain) if plain else []), *numeric]]


def parse_hosts(text: str) -> list[str]:
    """Return the names in a list of hosts without ports, checked.

    Raises:
        ValueError, NoClusterShellError: as `parse_endpoints`.
    """
    return [checked_host(name) for name in (_unfolded(text) if is_list(text) else [text])]


def checked_host(name: str) -> str:
    """Return the name if it is a valid host name; nothing that ssh or a shell would interpret is valid.

    Raises:
        ValueError: the name is not valid.
    """
    if not HOST.fullmatch(name) or name.startswith("-"):
        raise ValueError(f"{name!r} is not a host name or an address")
    return name


def fold_hosts(names: list[str]) -> str:
    """Return host names as one short list, or joined by commas if ClusterShell is not installed."""
    try:
        return str(_node_set(",".join(names))) if len(names) > 1 else "".join(names)
    except (NoClusterShellError, ValueError):
        return ",".join(names)


def is_list(text: str) -> bool:
    """Return whether the text needs ClusterShell's grammar: a comma, or brackets without an IPv6 address."""
    return "," in text or ("[" in text and not (text.startswith("[") and ":" in text.partition("]")[0]))


def _parted(text: str) -> tuple[str, list[str]]:
    """Separate ``[IPV6]:PORT`` from the rest of a list, whose brackets are ranges."""
    pieces = _split(text)
    numeric = [piece for piece in pieces if _IPV6.fullmatch(piece)]
    return ",".join(piece for piece in pieces if piece not in numeric), numeric


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets: those followed by an opening bracket, or by no bracket at all."""
    pieces, end, ahead = [], len(text), ""
    for at in range(len(text) - 1, -1, -1):
        if text[at] in "[]":
            ahead = text[at]
        elif text[at] == "," and ahead != "]":
            pieces.append(text[at + 1 : end])
            end = at
    return [text[:end], *reversed(pieces)]


def _unfolded(text: str) -> list[str]:
    return [str(node) for node in _node_set(text)]


def _size(text: str) -> int:
    """Return an upper bound on how many names a list expands to, judged only by its ranges.

    Raises:
        ValueError: a range is written in a form that only ClusterShell accepts: ``1 -9``, ``+1-9``, ``1_0-99``.
    """
    size = 1
    for inner in re.findall(r"\[([^\[\]]*)\]", text):
        count = 0
        for part in inner.split(","):
            match = re.fullmatch(r"(\d{1,18})-(\d{1,18})(?:/\d+)?", part.strip(), re.ASCII)
            if match is None and "-" in part:
                raise ValueError(f"{part!r} is not a range; write 01-04")
            count += int(match[2]) - int(match[1]) + 1 if match else 1
        size *= max(count, 1)
    return size


def _node_set(text: str) -> Any:
    try:
        from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
    except ImportError:
        raise NoClusterShellError(f"{text!r} is a list of hosts, and ClusterShell is not installed") from None
    if text.startswith(("@", "-")) or ("@" in text):
        raise ValueError(f"{text!r}: host groups are not supported")
    if _size(text) > MAX_HOSTS:  # checked before ClusterShell expands them
        raise ValueError(f"{text!r} names more than {MAX_HOSTS} hosts")
    try:
        return NodeSet(text, resolver=RESOLVER_NOGROUP)
    except (NodeSetException, ValueError) as error:
        raise ValueError(f"{text!r} is not a list of hosts: {error}") from None
