"""Groups of commands that list what they are about when no command is named."""

from __future__ import annotations

import click


class ListsByDefault(click.Group):
    """A group whose command ``list`` is meant where only options are given, or nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before options that are not the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
