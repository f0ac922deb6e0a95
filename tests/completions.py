"""Write completions/: what `torchctl completion` prints for each shell."""

from pathlib import Path

from torchctl.commands.completion import script

FOLDER = Path(__file__).parents[1] / "completions"

if __name__ == "__main__":
    for shell in ("bash", "zsh", "fish"):
        (FOLDER / f"torchctl.{shell}").write_text(script(shell))
