"""Render a store's keys and values as text or JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from torchctl.errors import DumpError
from torchctl.flightrec import Guard, describe_pickle
from torchctl.storeutil.operator.families import KeyGroup
from torchctl.storeutil.operator.values import Kind, as_text, classify, preview, wrapped_pickle
from torchctl.text import printable

MAX_ROWS = 50
_HEX_LINE = 16
_PICKLE_PREVIEW = 60


def value_text(data: bytes, key: str) -> str:
    """Return the whole value: text unchanged, a pickle as its structure, other bytes as a hex table."""
    shown = _structure(data, f"key {key!r}")
    if shown is not None:
        return shown
    text = as_text(data)
    if text is not None:
        return printable(text, keep_newlines=True)
    return "\n".join(
        f"{offset:06x}  {data[offset : offset + _HEX_LINE].hex(' ')}" for offset in range(0, len(data), _HEX_LINE)
    )


def value_json(data: bytes, key: str) -> dict[str, Any]:
    """Return the content of `store get --json`; `shown` is the structure of a pickle, null if it cannot be shown."""
    return {
        "key": key,
        "kind": classify(data).value,
        "size_bytes": len(data),
        "base64": base64.b64encode(data).decode("ascii"),
        "text": as_text(data),
        "shown": _structure(data, f"key {key!r}"),
    }


def value_line(data: bytes, guard: Guard) -> str:
    """Return the beginning of a value on one line; a pickle is shown as its structure."""
    text = _structure(data, "the value", guard)
    if text is None:
        return preview(data)
    return text if len(text) <= _PICKLE_PREVIEW else f"{text[:_PICKLE_PREVIEW]} ..."


def _structure(data: bytes, source: str, guard: Guard | None = None) -> str | None:
    """Return the structure of a pickle, or None for anything else, even if it begins and ends like a pickle."""
    if classify(data) is not Kind.PICKLE:
        return None
    try:
        return printable(describe_pickle(wrapped_pickle(data) or data, source=source, guard=guard))
    except DumpError:
        return None


def key_rows(groups: list[KeyGroup]) -> tuple[list[KeyGroup], int]:
    """Return at most `MAX_ROWS` groups, with unknown ones folded by folder, and how many are omitted."""
    if len(groups) > MAX_ROWS:
        folded: dict[str, KeyGroup] = {}
        rows = []
        for group in groups:
            head, slash, _ = group.name.partition("/")
            if group.known or not slash:
                rows.append(group)
            elif head in folded:
                folded[head].keys += group.keys
                folded[head].name = f"{head}/*"
            else:
                folded[head] = KeyGroup(group.name, list(group.keys))
        groups = rows + list(folded.values())
    return groups[:MAX_ROWS], max(0, len(groups) - MAX_ROWS)


def single_keys(rows: list[KeyGroup]) -> list[str]:
    """Return the keys of rows that have only one key, whose values are shown."""
    return [row.keys[0] for row in rows if len(row.keys) == 1 and not row.known]


def keys_table(rows: list[KeyGroup], values: Mapping[str, bytes]) -> Any:
    """Return the rich table of `store keys`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("KEYS", justify="right")
    table.add_column("NAME", overflow="fold", ratio=1)
    table.add_column("MEANING OR VALUE", overflow="fold", ratio=1)
    with Guard() as guard:
        for row in rows:
            value = values.get(row.keys[0])
            if row.known:
                meaning = row.meaning
            else:
                meaning = "" if value is None or len(row.keys) > 1 else value_line(value, guard)
            table.add_row(str(len(row.keys)), Text(printable(row.name)), Text(printable(meaning)))
    return table


def keys_json(groups: list[KeyGroup]) -> dict[str, Any]:
    """Return the content of `store keys --json`; `meaning` is null for keys that torch does not know."""
    return {
        "count": sum(len(group.keys) for group in groups),
        "groups": [
            {"name": group.name, "meaning": group.meaning or None, "keys": sorted(group.keys)} for group in groups
        ],
    }
