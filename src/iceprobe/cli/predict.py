"""``iceprobe predict``: an exported probe on a folder of images or other examples."""

from typing import TYPE_CHECKING, Annotated

import typer

from iceprobe import exporting
from iceprobe.backbones.kinds import singular
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, answers, say, wrote
from iceprobe.cli.paths import check_file, check_writable
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.options import part_of
from iceprobe.exporting.from_hub import on_hub
from iceprobe.settings import Prediction, PredictRun

if TYPE_CHECKING:
    from iceprobe.exporting import ExportedProbe, TokenProbe


@options(PredictRun)
def predict(
    given: Given,
    folder: Annotated[
        str, typer.Argument(help="What `iceprobe export` wrote, or hub:OWNER/NAME[@REVISION].")
    ],
    trust: Trust = False,
) -> None:
    """Predict of every image below a folder, and draw where the probe looked.

    Of videos or recordings if the probe reads these; of a probe of bags every folder in the folder is a bag.

    The table is CSV: file (of bags example), class, probability, then the next classes with theirs. Of tags
    it has the probability of each in a column of its name, or with --top those of the highest as of classes;
    of numbers each in a column of its name and unit.

    \b
    Examples:
      iceprobe predict models/birds --examples /data/unsorted
      iceprobe predict models/birds --examples /data/unsorted --output birds.csv --maps maps
      iceprobe predict models/birds --examples /data/unsorted --top 1 --on-bad-image skip
      iceprobe predict models/words --examples /data/recorded
    """
    config = resolve(PredictRun, given)
    check_file(config.output, "--output")
    if config.maps is not None:
        check_writable(config.maps, "--maps")
    with Bars() as progress:
        model = exporting.load_probe(folder, trust=trust)
        settings = part_of(config, Prediction)
        done = exporting.predict(model, config.examples, config.output, settings, progress=progress)
    if not answers("models", [_entry(model)]) and on_hub(folder):
        say(f"read {model.source}")
    if config.maps is not None:
        what = f"the {singular(model.preprocessing.kind)}"
        wrote(config.maps.resolve(), ", ".join([what, *done.maps]))
    say(config.output.resolve())


def _entry(model: "ExportedProbe | TokenProbe") -> dict[str, object]:
    """Which probe it was, for programs."""
    assert model.card is not None
    card = model.card
    return {
        "source": model.source,
        "probe": card.probe,
        "seed": card.seed,
        "backbone": card.backbone.spec,
        "store": card.store,
        "task": card.task,
    }
