"""JSON for machines: one object per run, with sorted keys and a schema name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def document(command: str, content: Mapping[str, Any], *, version: int = 1) -> str:
    """Return the JSON text of a command's result, with ``"schema": "torchctl.COMMAND/VERSION"``.

    It is ASCII only, so that it cannot contain control characters, whatever a worker sent.
    """
    return json.dumps({"schema": f"torchctl.{command}/{version}", **content}, sort_keys=True, indent=2)
