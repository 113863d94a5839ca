"""How probes are trained, selected and reported: `heldout` and `paper` (spec of the project).

A protocol is data; `fitting/` reads it. No torch here: `iceprobe ls protocols` shows this table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.settings import Fitting


@dataclass(frozen=True)
class Protocol:
    """The settings of a fit."""

    name: str  # as `--protocol` spells it
    summary: str  # one line for `iceprobe ls protocols`
    optimizer: str  # "adamw" or "lars"
    epochs: int  # passes over the training images; the schedule's horizon
    batch_size: int  # images per step
    warmup_epochs: float  # of linear warm-up, before the half-cosine to 0
    # the grid of every probe; `None` for each kind's own (`grids.py`). For LARS the values are
    # per 256 images and are multiplied by `batch_size / 256`
    learning_rates: tuple[float, ...] | None
    weight_decays: tuple[float, ...] | None  # likewise
    # fraction of the training split that selects the setting and the epoch; 0: the reported split
    # selects (and every number says so)
    held_out: float
    selected_on: str  # the words of results, where no held-out part gives them
    folds_below: int = 0  # training images below which folds select in place of one held-out part
    folds: int = 5  # of that cross-validation
    outer_folds: int = (
        0  # of train, each of which is the reported split once; 0: the data's own split
    )
    repeats: int = 1
    # standard errors by which an earlier epoch is better than the last, to be chosen
    # (`choosing.py`)
    errors: float = 2.0
    evaluations: int = 50  # on the held-out images in a schedule, at most
    growths: int = 2  # how often a grid grows on either side (`grids.py`)
    min_steps: int = 0  # least steps of a fit; on few images the epochs are raised to it
    # λ of the whitened coordinates in which probes on pooled vectors are trained
    # (`fitting/whitening.py`); `None` trains them as they are
    whitening: float | None = None
    # whether linear probes on stored vectors are solved for their optimum (`fitting/linear.py`) in
    # place of being trained
    solves_linear: bool = False
    # whether settings that are clearly beaten stop early (`protocols/halving.py`)
    halving: bool = False
    # "standardised", in which no number depends on the units of the features
    # (`probes/coordinates.py`), or "raw", in which pooled vectors aren't whitened either
    coordinates: str = "raw"


_HELDOUT: dict[str, Any] = {
    "optimizer": "adamw",
    "epochs": 20,
    "batch_size": 256,
    "warmup_epochs": 1,
    "learning_rates": None,
    "weight_decays": None,
    "held_out": 0.1,
    "selected_on": "held-out 10% of train",
    "folds_below": 1200,
    "min_steps": 400,
    "whitening": 0.01,
    "coordinates": "standardised",
    "solves_linear": True,
}

PROTOCOLS = {
    "heldout": Protocol(
        name="heldout",
        summary="10% of train (five folds below 1,200 images) selects the setting, refit on all of "
        "train, test read once",
        **_HELDOUT,
    ),
    "folds": Protocol(
        name="folds",
        summary="heldout in each fold of train, which is read once; the metric is of all examples' "
        "out-of-fold predictions, folds come from a column or are drawn",
        outer_folds=5,
        **_HELDOUT,
    ),
    "paper": Protocol(
        name="paper",
        summary="the publication's: LARS, 90 epochs, 4,096 images a step, best epoch on the "
        "reported split; here on cached features, without augmentation or over stored views; tokens "
        "in their own units",
        optimizer="lars",
        epochs=90,
        batch_size=4096,
        warmup_epochs=10,
        learning_rates=(0.1,),
        weight_decays=(0.0,),
        held_out=0.0,
        selected_on="the reported split (best epoch)",
    ),
}

UNSELECTED = "nothing: one image a class leaves none to hold out; a fixed setting"
MIN_STEPS = 16  # an epoch under `paper`: below it, images per step are lowered
TRAIN = "train"

# Probes that are compared need an interval that counts the order, the held-out part and the
# initialisation: replicates. The interval of a difference from five is 1.35 times as wide as if it were
# known that replicates don't differ, from three 1.68 times, from ten 1.24 times
# (``python -m benchmarks.verdicts --only rule``), and a replicate costs a fit.
REPLICATES = 5  # where two or more trained probes are compared, and of low-shot draws
SEEDS = 3  # of a single probe, and under a protocol that selects on what it reports


def protocol_of(settings: Fitting) -> Protocol:
    """The protocol that ``settings`` name, with what they set in place of its own values.

    A number of folds turns ``heldout`` into ``folds``, which selects in the same way.

    Raises:
        IceprobeError: as :func:`get_protocol`, and for folds of a protocol that has none.
    """
    folds, name = settings.folds, settings.protocol
    protocol = get_protocol(
        "folds" if folds is not None and name == "heldout" else name,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rates=settings.learning_rates,
        weight_decays=settings.weight_decays,
        min_steps=settings.min_steps,
        halving=settings.halving,
        coordinates=settings.coordinates,
    )
    if folds is None:
        return protocol
    if not protocol.outer_folds:
        raise IceprobeError(
            f"folds={folds} with protocol {name!r}, which reads the data's own split: leave folds out, or "
            "take --protocol folds"
        )
    return replace(protocol, outer_folds=folds)


def get_protocol(
    name: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    min_steps: int | None = None,
    halving: bool = False,
    coordinates: str | None = None,
) -> Protocol:
    """The protocol of that name with the values that the caller sets.

    ``epochs`` without ``min_steps`` holds however few images there are.

    Raises:
        IceprobeError: for an unknown name, a value of a grid that is given twice, or halving where
            settings aren't selected on held-out images. (`settings.py` checks the values.)
    """
    if name not in PROTOCOLS:
        raise IceprobeError(unknown("protocol", name, PROTOCOLS))
    if halving and not PROTOCOLS[name].held_out:
        raise IceprobeError(
            f"halving with protocol {name!r}: it holds no images out to stop a setting by; take "
            "--protocol heldout, or leave halving off"
        )
    grids = {"learning_rates": learning_rates, "weight_decays": weight_decays}
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "min_steps": 0 if epochs is not None and min_steps is None else min_steps,
        "halving": halving,
        "coordinates": coordinates,
    } | {key: None if values is None else tuple(values) for key, values in grids.items()}
    for key, values in grids.items():
        if values is not None and len(set(values)) < len(values):
            raise IceprobeError(f"{key}={tuple(values)}: give each value once")
    protocol = replace(PROTOCOLS[name], **{k: v for k, v in given.items() if v is not None})
    return replace(protocol, whitening=None) if protocol.coordinates == "raw" else protocol


def for_images(protocol: Protocol, num_images: int) -> Protocol:
    """The protocol for a training split of this size: epochs raised to `min_steps`."""
    epochs = -(-protocol.min_steps // steps_an_epoch(protocol, num_images))
    return replace(protocol, epochs=max(protocol.epochs, epochs))


def steps_an_epoch(protocol: Protocol, num_images: int) -> int:
    """Training steps of one pass over ``num_images``."""
    return -(-num_images // images_per_step(protocol, num_images))


def total_steps(protocol: Protocol, num_images: int) -> int:
    """Training steps of all epochs."""
    return protocol.epochs * steps_an_epoch(protocol, num_images)


def evaluation_epochs(protocol: Protocol) -> list[int]:
    """The epochs of selection after which members are evaluated, the last among them."""
    apart = -(-protocol.epochs // protocol.evaluations)
    return sorted(range(protocol.epochs, 0, -apart))


def launch_line(protocol: Protocol, num_images: int, noun: str) -> str:
    """The steps of a fit on ``num_images``, called by their ``noun``, and why its epochs aren't the protocol's."""
    run = for_images(protocol, num_images)
    text = (
        f"{run.epochs} epochs of {steps_an_epoch(run, num_images)} steps "
        f"({images_per_step(run, num_images)} {noun}s each): {total_steps(run, num_images):,} steps"
    )
    if run.epochs > protocol.epochs:
        text += (
            f"; {protocol.epochs} epochs of {num_images:,} {noun}s would be "
            f"{total_steps(protocol, num_images):,}, and a fit takes at least --min-steps "
            f"{protocol.min_steps}"
        )
    return text


def images_per_step(protocol: Protocol, num_images: int) -> int:
    """Images per step on a split of ``num_images``.

    `paper` lowers them until an epoch has 16 steps; `heldout` never takes more than there are.
    """
    if protocol.name == "paper":
        return max(2, min(protocol.batch_size, num_images // MIN_STEPS))
    return max(2, min(protocol.batch_size, num_images))


def repeated(
    seeds: int | None, replicates: int | None, *, trained: int, held_out: float, low_shot: bool
) -> tuple[int, int | None]:
    """Seeds and replicates of a fit: as given, but a low-shot fit always has replicates.

    Args:
        seeds, replicates: as given.
        trained: probes that are trained.
        held_out: part of the training images that selects, of the protocol.
        low_shot: whether the training images are drawn, anew in every replicate.
    """
    compared = seeds is None and trained > 1 and held_out > 0
    if replicates is None and (low_shot or compared):
        replicates = REPLICATES
    return (SEEDS if seeds is None else seeds), replicates


def reported(settings: Fitting) -> str | None:
    """The split that a fit reports; ``None``: the training examples, by folds."""
    return None if protocol_of(settings).outer_folds else settings.split


def check_splits(
    splits: Iterable[str], split: str | None, spec: str, *, folds: bool = False
) -> None:
    """Refuse to train on nothing, and to report the training split or one that isn't there.

    Args:
        splits: of the data set ``spec``.
        split: to report; ``None`` for none, as of `reported`.
        folds: whether the caller could test by folds.

    Raises:
        IceprobeError: with those that may be reported, or with what does without.
    """
    names = list(splits)
    others = [name for name in names if name != TRAIN]
    if TRAIN not in names:
        raise IceprobeError(
            f"{spec} has no split {TRAIN!r} (it has {', '.join(names)}), so nothing can be fitted on it: "
            f"fit on another data set, then read that run here: iceprobe test RUN --data {spec}"
        )
    if split == TRAIN:
        remedy = "give the data set a split of other images, such as test"
        raise IceprobeError(
            f"split={split!r}: probes are trained on it, so a number on it measures what they memorised; "
            + (f"give split={' or '.join(map(repr, others))}" if others else remedy)
        )
    if split is not None and split not in names:
        if others:
            raise IceprobeError(unknown(f"split of {spec}", split, names))
        or_folds = ", or test each example by folds, --protocol folds" if folds else ""
        raise IceprobeError(
            f"{spec} has no split {split!r}, all is in train: give it one (test_fraction=0.2 draws one){or_folds}"
        )
