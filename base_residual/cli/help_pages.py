"""Help of the commands: sections, options with the words of their settings, switches."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from base_residual.cli.exits import exit_codes, open_streams, terminable
from base_residual.files.paths import expand_home


class Command(TyperCommand):
    """A command whose help groups its options by what they are about."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options; those that are settings have the help of the setting."""
        params = super().get_params(ctx)
        settings = getattr(self.callback, "settings", {})  # of `with_settings`
        for param in params:
            if param.name in settings:
                settings[param.name].describe(param)
        return plain_switches(params)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with `~` expanded in its paths: a shell leaves it alone in `--out=~/maps`."""
        for name, value in ctx.params.items():
            several = isinstance(value, list | tuple)
            ctx.params[name] = [*map(_expanded, value)] if several else _expanded(value)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of the help."""
        write_parameters(self.get_params(ctx), ctx, formatter)


class Commands(TyperGroup):
    """The command `brdepth` itself, whose help lists its commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its options."""
        return plain_switches(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of the help, and the list of commands."""
        write_parameters(self.get_params(ctx), ctx, formatter)
        with formatter.section("Commands"):
            # The first paragraph of each; without docstrings (`python -OO`) a command has no help.
            helps = {name: (command.help or "").partition("\n\n")[0] for name, command in self.commands.items()}
            formatter.write_dl([*helps.items()])

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the whole program, as a shell or another program has started it."""
        open_streams()
        with terminable():
            return super().main(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with exit_codes():
            return super().invoke(ctx)


def _expanded(value: Any) -> Any:
    """Return a value, with `~` expanded at its beginning; only paths begin so."""
    if not isinstance(value, str | Path) or not str(value).startswith("~"):
        return value
    return type(value)(expand_home(value))


def plain_switches(params: list[Any]) -> list[Any]:
    """Return the parameters; the help of a switch, which takes no value, names no type."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def write_parameters(params: list[Any], ctx: Any, formatter: Any) -> None:
    """Write a help's sections: arguments, options, then each panel, in the order in which they come."""

    def section(param: Any) -> str:
        panel: str | None = getattr(param, "rich_help_panel", None)  # `--help` has none in some versions of Typer
        return panel or f"{param.param_type_name.capitalize()}s"

    names = list(dict.fromkeys(["Arguments", "Options", *map(section, params)]))
    shown = sorted(params, key=lambda param: names.index(section(param)))
    for name, group in groupby(shown, section):
        with formatter.section(name):
            formatter.write_dl([record for param in group if (record := param.get_help_record(ctx))])
