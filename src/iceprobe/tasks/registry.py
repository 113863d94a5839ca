"""The tasks that there are. Neither listing them nor reading their metrics imports torch."""

from typing import TYPE_CHECKING

from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry, Registry

if TYPE_CHECKING:
    from iceprobe.tasks.task import Task

_HERE = "iceprobe.tasks"
TASKS: Registry[Entry] = Registry(
    "task",
    {
        "classification": Entry(f"{_HERE}.classification:Classification", "one class an example"),
        "multilabel": Entry(
            f"{_HERE}.multilabel:Multilabel", "a set of tags an example, which may be empty"
        ),
        "regression": Entry(f"{_HERE}.regression:Regression", "one or several numbers an example"),
        "segmentation": Entry(f"{_HERE}.segmentation:Segmentation", "one class a pixel"),
        "depth": Entry(f"{_HERE}.depth:Depth", "one number a pixel"),
    },
)


def get_task(name: str) -> "Task":
    """The task called ``name``.

    Raises:
        IceprobeError: if there is none, with the nearest names.
    """
    found: Task = TASKS[name].load()()
    return found


def pooled_task(name: str) -> "Task":
    """The task of that name, which is one of whole examples.

    Raises:
        IceprobeError: if it isn't, or there is none.
    """
    task = get_task(name)
    if not task.pooled:
        raise IceprobeError(f"task={task.name!r} is of single patches: take iceprobe segment")
    return task
