"""The tasks that there are. Neither listing them nor reading their metrics imports torch."""

from iceprobe.core.registry import Entry, Registry
from iceprobe.tasks.task import Task

TASKS: Registry[Entry] = Registry(
    "task",
    {
        "classification": Entry(
            "iceprobe.tasks.classification:Classification", "one class an example"
        ),
    },
)


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        IceprobeError: if there is none, with the nearest names.
    """
    found: Task = TASKS[name].load()()
    return found
