"""Whose code a file is, judged by its path alone: the file is on the worker's host and need not exist here.

Anything below a site-packages folder is a library, even if the virtual environment is inside the user's project.
Everything else is the user's own code: an editable install, a zipapp, a notebook cell, the argument of `python -c`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Origin = Literal["user", "library", "torch", "python", "native"]

# py-spy shortens paths to what follows a sys.path folder; listed are only names that no training script would use.
_MODULES = (
    "base_events bdb cmd codecs contextlib functools gzip heapq linecache pdb pickle queue runpy selectors shutil"
    " socket socketserver ssl subprocess tempfile threading weakref"
)
_PACKAGES = "asyncio concurrent ctypes http importlib json logging multiprocessing unittest urllib"
_LIBRARIES = (
    "accelerate aiohttp apex bitsandbytes boto3 botocore colossalai cupy cv2 dask debugpy deepspeed diffusers einops"
    " fairscale fbgemm_gpu filelock flash_attn flashinfer fsspec gcsfs grpc h5py horovod httpx huggingface_hub hydra"
    " ipdb IPython jax joblib keras liger_kernel lightning lightning_fabric lightning_utilities litdata matplotlib"
    " mlflow mpi4py msgpack networkx numba numpy nvidia omegaconf onnx onnxruntime pandas peft petastorm PIL psutil"
    " pudb pyarrow pydantic pynvml pytorch_lightning ray requests rich s3fs safetensors scipy sentencepiece sglang"
    " skimage sklearn sympy tensorboard tensorboardX tensorflow tensorrt timm tokenizers torchao torchaudio torchdata"
    " torchmetrics torchrec torchtext torchvision tqdm transformer_engine transformers triton trl urllib3 uvicorn vllm"
    " wandb webdataset xformers xgboost zarr zmq"
)


def _any(names: str) -> str:
    return "|".join(names.split())


_INSTALLED = r"(?:\A|/)(?:site-packages|dist-packages)/|/\.pex/(?:installed_wheels|.*\.deps)/[^/]+/(?:[^/]+\.whl/)?"
_STANDARD = r"(?:\A|/)lib(?:64)?/(?:python|pypy)3\.\d+t?/"
_TORCH = re.compile(r"(?:/(?:site-packages|dist-packages|pytorch)/|\.whl/|\A)torch/|\A<eval_with_key>")
# The standard library, frozen modules, and torchctl's own worker side.
_PYTHON = re.compile(
    rf"{_STANDARD}(?!site-packages/|dist-packages/)|/python3\d+\.zip/|\A<frozen |\A\Z"
    r"|(?:\A|/)site-packages/torchctl/|(?:\A|/)torchctl/(?:server|storeutil)/"
    rf"|\A(?:{_any(_MODULES)})\.py\Z|\A(?:{_any(_PACKAGES)})/"
)
# Symbols that torch's recorder resolves in C++, as file names.
_NATIVE = re.compile(r"\A\?\?\Z|\.(?:so[.\d]*|c|cc|cpp|cu|cuh|h|hpp|pyx)\Z")
# Code that was typed or passed to the interpreter; other names in angle brackets are code that a library generated.
_TYPED = re.compile(r"<(?:string|stdin|console|ipython-input-.*|torch_package_\d+>.*|cell.*)>?")
_LIBRARY = re.compile(rf"{_INSTALLED}|\A(?:{_any(_LIBRARIES)})/|\A<")
_BEFORE_PACKAGE = re.compile(
    rf"(?:.*(?:{_INSTALLED})|.*{_STANDARD}|.*/pytorch/(?=torch/)|.*/(?=torchctl/(?:server|storeutil)/))(?=.)", re.DOTALL
)


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
    if _TYPED.fullmatch(path):
        return "user"
    return "library" if _LIBRARY.search(path) else "user"


@lru_cache(maxsize=8192)
def short(path: str) -> str:
    """Return a library's path starting at its package (``torch/nn/modules/module.py``), a user's path unchanged."""
    match = _BEFORE_PACKAGE.match(path)
    return path[match.end() :] if match else path


def users_frame(files: Sequence[str]) -> int | None:
    """Return the index of the innermost frame of the user's own code, or None.

    Args:
        files: the files of a stack's frames, innermost first.
    """
    for index, file in enumerate(files):
        if origin(file) == "user" and not (file == "<string>" and index and _starts_process(files[index - 1])):
            return index
    return None


def nearest_frame(files: Sequence[str]) -> int | None:
    """Return the index of the frame to look at first: the user's innermost, else a library's; None for neither."""
    users = users_frame(files)
    if users is not None:
        return users
    return next((index for index, file in enumerate(files) if origin(file) == "library"), None)


def _starts_process(file: str) -> bool:
    """Whether this is the `python -c` code that multiprocessing starts a process with."""
    return file.endswith(
        ("multiprocessing/spawn.py", "multiprocessing/forkserver.py", "multiprocessing/resource_tracker.py")
    )
