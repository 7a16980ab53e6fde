"""The commands, as `detbalance <command>`, `python -m detbalance` and `python tools/<command>.py`.

A command is one function with its options on it, in the file of its name; `commands.py` lists them.
Only the file of the command that runs is imported, so that `detbalance report` needs neither torch
nor any other part of the training stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

from detbalance.cli.commands import COMMANDS, HELP, RENAMED
from detbalance.cli.options import VERBOSITY
from detbalance.cli.running import run


class _Commands(click.Group):
    """Commands by what they are for, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(HELP)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if new := RENAMED.get(name):
            raise ValueError(f"{name}: is called {new} now. Run: detbalance {new}")
        if name not in HELP:
            return None
        word = name.replace("-", "_")
        file = "quickstart" if word == "digits" else word
        command = getattr(import_module(f"detbalance.cli.{file}"), f"{word}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first line of each help, without importing any."""
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([*commands.items()])


@click.group(
    cls=_Commands,
    params=[*VERBOSITY],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(package_name="detbalance")
def cli() -> None:
    """Make object detectors find the classes that their training data shows too rarely."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a user can cause ends in one line and exit status 2."""
    run(cli, arguments)
