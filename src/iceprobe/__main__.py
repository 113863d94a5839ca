"""``python -m iceprobe`` is ``iceprobe``."""

from iceprobe.cli import main

main()
