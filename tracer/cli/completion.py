"""`trace completion SHELL`."""

import click


@click.command()
def completion() -> None:
    """To come."""
