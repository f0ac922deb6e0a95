"""JSON for machines: one object per run, sorted keys, a schema that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def document(command: str, content: Mapping[str, Any], *, version: int = 1) -> str:
    """Return the JSON text of a command's result, with ``"schema": "torchctl.COMMAND/VERSION"``.

    ASCII only, so that nothing in it can be a control character, whatever a worker has sent.
    """
    return json.dumps({"schema": f"torchctl.{command}/{version}", **content}, sort_keys=True, indent=2)
