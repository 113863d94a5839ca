"""A line on groups of examples on both sides of a split, which is the user's and stays."""

from collections.abc import Sequence

from iceprobe.core.text import counted
from iceprobe.tasks.targets import some


def line_of_shared_groups(column: str, names: Sequence[str], places: str, so: str) -> str:
    """What is said of them.

    Args:
        column: of the groups.
        names: of those that are on both sides.
        places: the sides, ``"train and in test"``.
        so: which examples aren't independent of what.
    """
    are = "is" if len(names) == 1 else "are"
    return (
        f"{counted(len(names), 'group')} ({column} {some(names)}) {are} in {places}: {so}, so scores may be "
        "too high"
    )
