"""The command line: one small file per command. Nothing here imports torch until a command runs."""

from iceprobe.cli.app import main

__all__ = ["main"]
