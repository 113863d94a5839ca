"""Where a run can be published, by the kind of a spec string: ``hub:OWNER/NAME``, ``ep``. Imports nothing else."""

from dataclasses import dataclass

from iceprobe.core.registry import Entry, Registry


@dataclass(frozen=True)
class Destination(Entry):
    """One destination; ``target(spec, results, call, folder) -> Publication``.

    ``folder`` is an empty one for files that are made on the way; it stays as long as the publication's files.

    Attributes:
        example: a spec to copy from.
    """

    example: str = ""


DESTINATIONS: Registry[Destination] = Registry(
    "destination",
    {
        "hub": Destination(
            "iceprobe.publishing.hub:on_hub",
            "a model repository of the Hugging Face Hub: probe, model card, evaluation results, report",
            "hub:OWNER/NAME",
        ),
        "ep": Destination(
            "iceprobe.publishing.ep:as_row",
            "a row of the publication's benchmark, in the form of the authors' results.csv",
            "ep:results.csv",
        ),
    },
)
