"""`completion`: scripts that complete commands and flags in a shell."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    bash: eval "$(reactorcide completion bash)" in ~/.bashrc; zsh alike in ~/.zshrc;
    fish: reactorcide completion fish > ~/.config/fish/completions/reactorcide.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} is not a shell this program knows")
    root = ctx.find_root().command
    click.echo(found(root, {}, "reactorcide", "_REACTORCIDE_COMPLETE").source())
