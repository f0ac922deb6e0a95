"""The root command: imports commands on first use, and is the only place that prints errors."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from torchctl import __version__
from torchctl.errors import EXIT_FAILED, EXIT_INTERRUPTED, TorchctlError

# Commands in the order of --help; each is the `command` of the torchctl.commands module with its name.
GROUPS: dict[str, tuple[str, ...]] = {
    "Look": ("ps", "ping", "traceback", "nccl-trace", "handlers"),
    "Diagnose": ("diagnose", "doctor", "collect"),
    "Step in": ("call", "barrier", "synchronize", "store"),
    "Plumbing": ("relay", "completion", "help"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)


class Root(click.Group):
    """A group whose commands are imported on first use, and whose `main` is the error boundary."""

    debug = False  # set by --debug: tracebacks instead of sentences

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(command_module(cmd_name)).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and args[0][:1].isalnum():
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from torchctl.commands.grouping import list_commands
        from torchctl.commands.summaries import Listed

        list_commands(formatter, GROUPS, lambda name: Listed(name, command_module(name)))

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit: 0, the error's own code, or the code that the command asked for."""
        if sys.stdout is None:
            sys.stderr.write("torchctl: standard output is closed, so there is nowhere to print\n")
            sys.exit(EXIT_FAILED)
        try:
            extra["standalone_mode"] = False
            code = super().main(args, prog_name, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("torchctl: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            # The reader (head, less) has exited: not worth a message, but not a success either; click does the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILED)
        except OSError as error:
            if self.debug:
                raise
            click.echo(f"torchctl: cannot write the output: {error.strerror or error}", err=True)
            with contextlib.suppress(OSError, ValueError):  # flushing the rest at exit would fail again
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILED)
        except TorchctlError as error:
            if self.debug:
                raise
            show_error(error)
            sys.exit(error.exit_code)
        except Exception as error:
            if self.debug:
                raise
            click.echo(f"torchctl: internal error: {type(error).__name__}: {error}", err=True)
            click.echo("  run again with `torchctl --debug ...` for the traceback, and please report it", err=True)
            sys.exit(EXIT_FAILED)
        sys.exit(code if isinstance(code, int) else 0)


def command_module(name: str) -> str:
    """Return the module that holds a command."""
    return f"torchctl.commands.{name.replace('-', '_')}"


def show_error(error: TorchctlError) -> None:
    """Print one error and its hint on stderr."""
    from torchctl.text import printable

    click.echo(f"torchctl: {printable(str(error))}", err=True)
    if error.hint:
        click.echo(f"  {printable(error.hint)}", err=True)


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="torchctl")
@click.option("--debug", is_flag=True, help="Show tracebacks of torchctl's own errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Ask the workers of a distributed PyTorch job what they are doing."""
    assert isinstance(ctx.command, Root)
    ctx.command.debug = debug


def main() -> NoReturn:
    """The `torchctl` command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `__main__`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main(prog_name="torchctl")
    except SystemExit as end:
        # torch takes 0.2 to 0.4 s to unload, and a normal interpreter exit would abort because of a thread that a
        # stopped store leaves in torch's client. The kernel frees everything that a command holds.
        if "torch" in sys.modules:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(end.code if isinstance(end.code, int) else EXIT_FAILED)
        raise
