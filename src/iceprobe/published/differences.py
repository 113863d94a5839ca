"""What differs in protocol between a result and a published figure (``spec/protocols.md``)."""

from collections.abc import Iterator
from dataclasses import dataclass

from iceprobe.backbones.families import family_of
from iceprobe.core.specs import parse_spec
from iceprobe.published.matching import reads
from iceprobe.published.rows import DATA, Encoder, Figure
from iceprobe.published.sources import ANEW, HELD_OUT, REPORTED, SOURCES, Protocol
from iceprobe.results.examples import examples_of
from iceprobe.results.schema import Result

PAPER_LIVE = "live, paper augmentation"  # of `Result.training_images`
_TRAINED = {"optimizer": "optimiser", "epochs": "epochs", "images_per_step": "images a step"}
_NORMS = {True: "with the final norm", False: "without the final norm"}


@dataclass(frozen=True)
class Differs:
    """One thing that isn't the same: ``optimiser``, ``adamw`` here, ``lars`` published."""

    what: str
    here: str
    published: str

    def __str__(self) -> str:
        return f"{self.what}: {self.here} here, {self.published} published"


def protocol_of_figure(figure: Figure) -> Protocol:
    """The protocol by which a figure was made."""
    source = SOURCES[figure.source]
    return source.knn if figure.probe == "knn" else source.trained


def differences(result: Result, figure: Figure, encoder: Encoder) -> list[Differs]:
    """What differs; of training what a source doesn't state is left out."""
    made = protocol_of_figure(figure)
    found = [
        *_selection(result, made),
        *_training(result, made),
        *_images(result, figure, encoder),
        *_reading(result, figure),
    ]
    if figure.probe == "knn":
        found += _neighbours(result, figure, made)
    return found


def _selection(result: Result, made: Protocol) -> Iterator[Differs]:
    ours = REPORTED if result.selected_on_reported else HELD_OUT
    if ours != made.selected or (ours != REPORTED and result.selected_on != made.selected_on):
        yield Differs("selected on", result.selected_on, made.selected_on)


def _training(result: Result, made: Protocol) -> Iterator[Differs]:
    if result.method == "knn":
        return
    for key, what in _TRAINED.items():
        ours, theirs = result.training.get(key), made.training.get(key)
        if theirs is not None and ours != theirs:
            yield Differs(what, str(ours if ours is not None else "none"), str(theirs))
    if made.training_images not in ("", result.training_images) and not _drawn_anew(result, made):
        yield Differs(
            f"training {examples_of(result)}", result.training_images, made.training_images
        )
    if len(result.seeds) > 1:
        yield Differs("runs", f"mean of {len(result.seeds)}", "one")


def _drawn_anew(result: Result, made: Protocol) -> bool:
    """Whether both saw the publication's random crops, new in each epoch."""
    return made.training_images == ANEW and result.training_images == PAPER_LIVE


def _images(result: Result, figure: Figure, encoder: Encoder) -> Iterator[Differs]:
    data, examples = DATA[figure.data], examples_of(result)
    what = f"{examples} to learn from"
    if result.shots is not None:
        yield Differs(what, f"{result.shots} a class", "all")
    elif result.fraction is not None:
        yield Differs(what, f"{100 * result.fraction:g}% of each class", "all")
    elif data.train and result.train_images not in (None, data.train):
        yield Differs(what, f"{result.train_images:,}", f"{data.train:,}")
    if data.reported and result.test_images not in (None, data.reported):
        yield Differs(f"{examples} reported", f"{result.test_images:,}", f"{data.reported:,}")
    side = figure.image_size // encoder.patch
    if result.grid is not None and len(result.grid) == 2 and result.grid != (side, side):
        theirs = f"{side}×{side} at {figure.image_size} pixels"
        yield Differs("grid of patches", "×".join(map(str, result.grid)), theirs)


def _reading(result: Result, figure: Figure) -> Iterator[Differs]:
    ours = reads(result, figure)
    if figure.reads and ours != figure.reads:
        yield Differs("reads", ours, figure.reads)
    if result.probe.partition("?")[0] != figure.probe.partition("?")[0]:
        yield Differs("probe", result.probe, figure.note or figure.probe)
    spec = parse_spec(result.backbone)
    if spec.options.get("layer", "-1") != "-1":
        yield Differs("layer", spec.options["layer"], "the last")
    if figure.source.startswith("ep-"):
        family = family_of(spec.options.get("entry", spec.name), spec.name.rpartition("/")[2])
        published = family.norm if family.published_norm is None else family.published_norm
        here = spec.options.get("norm", str(family.norm).lower()) == "true"
        if here != published:
            yield Differs("tokens", _NORMS[here], _NORMS[published])


def _neighbours(result: Result, figure: Figure, made: Protocol) -> Iterator[Differs]:
    k, temperature = result.selected.get("k"), result.selected.get("temperature")
    ours = f"k={k}, T={temperature}"
    if figure.note and k is not None and ours != figure.note:
        yield Differs("neighbours", ours, figure.note)
    if made.search:
        yield Differs("searched in", "all of train", made.search)
