"""Find the workers: from what the operator named, else the environment, else this user's runtime folder."""

from torchctl.workers.find.sockets import in_folder, in_runtime_dir, named_by_environment, named_socket

__all__ = ["in_folder", "in_runtime_dir", "named_by_environment", "named_socket"]
