"""The command line: files and names in, objects out."""

from lessen.cli.main import main

__all__ = ["main"]
