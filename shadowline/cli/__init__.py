"""The command line: the lazy root group, and the commands that need the library alone."""

from shadowline.cli.app import main

__all__ = ["main"]
