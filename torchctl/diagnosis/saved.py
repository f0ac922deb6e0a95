"""A live diagnosis kept as files, from which the same verdict comes."""

from __future__ import annotations

import json
import os

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.folders import WORKERS_FILE, described
from torchctl.errors import TorchctlError
from torchctl.files import write_file


def make_folder(folder: str) -> None:
    """Make the folder, or take an empty one: old files of another job would be evidence too.

    Raises:
        TorchctlError: it holds something, or cannot be made.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        occupied = bool(os.listdir(folder))
    except OSError as error:
        raise TorchctlError(f"{folder} cannot be made: {error.strerror}", hint="choose another folder") from error
    if occupied:
        raise TorchctlError(f"{folder} is not empty", hint="name a new folder for --save")


def save_evidence(evidence: Evidence, folder: str) -> None:
    """Write all evidence into a folder that `make_folder` has made.

    Raises:
        TorchctlError: a file cannot be written.
    """
    for name, data in sorted(evidence.files.items()):
        write_file(os.path.join(folder, name), data)
    text = json.dumps(described(evidence), sort_keys=True, indent=1)
    write_file(os.path.join(folder, WORKERS_FILE), text.encode() + b"\n")
