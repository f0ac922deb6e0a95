"""torchctl: command-line debugging toolkit for distributed PyTorch jobs."""

__version__ = "0.1.0"
__all__ = ["__version__"]
