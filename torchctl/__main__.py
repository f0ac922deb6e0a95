"""`python -m torchctl`: the same as the `torchctl` command."""

from torchctl.cli import main

main()
