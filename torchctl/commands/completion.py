"""`torchctl completion`."""

from __future__ import annotations

import click

from torchctl.cli import cli

_VARIABLE = "_TORCHCTL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash:  eval "$(torchctl completion bash)"        in ~/.bashrc
    zsh:   eval "$(torchctl completion zsh)"         in ~/.zshrc
    fish:  torchctl completion fish | source         in ~/.config/fish/config.fish

    Completes commands and options, and the live workers' sockets and handlers.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """Return the completion script for bash, zsh or fish, which click generates from the commands."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(cli, {}, "torchctl", _VARIABLE)
    # Not `source()`, which starts a bash to ask for its version.
    return (complete.source_template % complete.source_vars()).strip() + "\n"
