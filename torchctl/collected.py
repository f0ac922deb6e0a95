"""A folder that `torchctl collect` has filled: its manifest, and which of its files a command reads."""

from __future__ import annotations

import json
import os
from typing import Any

from torchctl.errors import TorchctlError

MANIFEST = "collect.json"
SCHEMA = "torchctl.collect/1"
_MAX_BYTES = 1 << 30


def read_manifest(folder: str) -> dict[str, Any] | None:
    """Return the manifest of a folder, None where there is none.

    Raises:
        TorchctlError: `collect.json` is there and is something else.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        if document["schema"] != SCHEMA or not all(map(_is_entry, document["workers"])):
            raise ValueError
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TorchctlError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise TorchctlError(f"{path} is not what `torchctl collect` writes", hint="choose another folder") from None
    assert isinstance(document, dict)
    return document


def _is_entry(worker: dict[str, Any]) -> bool:
    """Whether a manifest's worker has the form that its readers rely on; a file is always one of the same folder."""
    texts = [worker["endpoint"], *worker["files"].values(), *worker["failures"].values()]
    numbers = [worker[name] for name in ("rank", "pid", "world_size")]
    return (
        all(isinstance(text, str) for text in texts)
        and all(number is None or (isinstance(number, int) and 0 <= number < 1 << 32) for number in numbers)
        and not any("/" in name or "\0" in name for name in worker["files"].values())
    )
