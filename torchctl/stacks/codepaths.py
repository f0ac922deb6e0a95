"""Whose code a file is, judged by its path alone: the file is one of the worker's host and need not exist here."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Origin = Literal["user", "library", "torch", "python", "native"]

_TORCH = re.compile(r"/(?:site-packages|dist-packages|pytorch)/torch/|\Atorch/")
# The standard library, frozen modules, and torchctl's own worker side.
_PYTHON = re.compile(
    r"/lib(?:64)?/python3\.\d+t?/(?!site-packages/|dist-packages/)|/python3\d+\.zip/|\A<frozen|\A\Z"
    r"|/site-packages/torchctl/|/torchctl/server/"
    # py-spy strips the folders of sys.path. Only names that no training script has:
    r"|\A(?:threading|queue|selectors|socket|ssl|subprocess|contextlib|functools|runpy)\.py\Z"
    r"|\A(?:multiprocessing|concurrent|asyncio|importlib|logging)/"
)
# Symbols that torch's recorder resolves in C++, as file names.
_NATIVE = re.compile(r"\A\?\?\Z|\.(?:so[.\d]*|c|cc|cpp|cu|cuh|h|hpp|pyx)\Z")
_LIBRARY = re.compile(r"/(?:site-packages|dist-packages)/(.*)\Z", re.DOTALL)
_PYTHON_ROOT = re.compile(r"/lib(?:64)?/python3\.\d+t?/(.*)\Z", re.DOTALL)


@lru_cache(maxsize=8192)
def origin(path: str) -> Origin:
    """Return whose code a file is: torch's, Python's own, C++, another installed library's, or the user's."""
    path = path.replace("\\", "/")
    if _TORCH.search(path):
        return "torch"
    if _PYTHON.search(path):
        return "python"
    if _NATIVE.search(path):
        return "native"
    return "library" if _LIBRARY.search(path) else "user"


@lru_cache(maxsize=8192)
def short(path: str) -> str:
    """Return a library's path from its package on (``torch/nn/modules/module.py``); a user's path unchanged."""
    match = _LIBRARY.search(path) or _PYTHON_ROOT.search(path)
    return match[1] if match else path
