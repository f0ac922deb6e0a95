"""The data of an exchange as a table, as JSON, and as files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchctl.files import write_file
from torchctl.storeutil.operator.synchronize import Exchange
from torchctl.storeutil.operator.values import as_text, preview

if TYPE_CHECKING:
    from rich.table import Table


def exchange_table(exchange: Exchange) -> Table:
    """Return one row per rank: its size, and the beginning of what it published."""
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
    """Return the content of `--json`: base64 always, `text` where it is text, else null."""
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


def write_files(exchange: Exchange, folder: Path) -> int:
    """Write ``rank0`` ... into `folder`, which is created; return how many.

    Raises:
        OSError: the folder cannot be made.
        TorchctlError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for rank, data in enumerate(exchange.data):
        write_file(str(folder / f"rank{rank}"), data)
    return len(exchange.data)
