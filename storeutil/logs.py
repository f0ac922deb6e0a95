"""Loggers named after the module that asks for them."""

from __future__ import annotations

import logging
import os
import sys


def get_logger(name: str | None = None) -> logging.Logger:
    """Return a logger whose level is `LOGLEVEL` from the environment, else WARNING.

    Args:
        name: by default the caller's module.

    Source: torch.distributed.elastic.utils.logging.get_logger (2.13).
    """
    logger = logging.getLogger(name or _calling_module())
    logger.setLevel(os.environ.get("LOGLEVEL") or logging.WARNING)
    return logger


def _calling_module() -> str:
    """Return the name of the module that called `get_logger`."""
    return str(sys._getframe(2).f_globals.get("__name__", "__main__"))
