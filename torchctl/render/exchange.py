"""Render the data of an exchange as a table or JSON."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from torchctl.storeutil.operator.synchronize import Exchange
from torchctl.storeutil.operator.values import as_text, preview

if TYPE_CHECKING:
    from rich.table import Table


def exchange_table(exchange: Exchange) -> Table:
    """Return one row per rank: the size and the beginning of the data that it published."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("RANK", justify="right")
    table.add_column("BYTES", justify="right")
    table.add_column("DATA", overflow="fold")
    for rank, data in enumerate(exchange.data):
        table.add_row(str(rank), str(len(data)), Text(preview(data)))
    return table


def exchange_json(exchange: Exchange, key_prefix: str) -> dict[str, Any]:
    """Return the content of `--json`: always base64; `text` is null if the data is not text."""
    return {
        "key_prefix": key_prefix,
        "elapsed_s": round(exchange.elapsed_s, 3),
        "ranks": [
            {
                "rank": rank,
                "size_bytes": len(data),
                "base64": base64.b64encode(data).decode("ascii"),
                "text": as_text(data),
            }
            for rank, data in enumerate(exchange.data)
        ],
    }
