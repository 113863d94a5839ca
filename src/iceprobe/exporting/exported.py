"""An exported probe: images, or other examples → outputs.

outputs = probe(backbone(images))        logits of classes or tags, or numbers in the target's unit
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from iceprobe.backbones import Backbone
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged, batched, singular
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.base import BadImage
from iceprobe.datasets.pixels import Reading
from iceprobe.exporting.card import Card
from iceprobe.exporting.examples import opened, way_of
from iceprobe.probes.probe import Probe
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.task import Task
from iceprobe.tokens import Tokens, TokenShape

# Share of the largest logit, or of the spread of a number's targets: rounding on other machines stays well
# below it.
TOLERANCE = 0.01
TOP = 5  # classes that `predict` names


class ExportedProbe(nn.Module):
    """A frozen backbone with a fitted probe, in evaluation mode.

    Attributes:
        backbone: images, or other examples → tokens.
        probe: tokens → outputs.
        classes: K names of classes, tags or numbers.
        task: what the outputs are.
        units: of the numbers of a regression; empty if they aren't known.
        amp: dtype of the forward pass that made the training tokens.
        reading: how image files are read, the same as for training.
        card: ``model.json``, if it was loaded from a folder.
        source: what it was loaded from: the folder, or ``"hub:OWNER/NAME@COMMIT"``, which loads the same again.
    """

    source: str | None = None

    def __init__(
        self,
        backbone: Backbone,
        probe: Probe,
        classes: Sequence[str],
        *,
        amp: str = "float32",
        reading: Reading = Reading(),
        card: Card | None = None,
        task: str = "classification",
        units: Sequence[str] = (),
    ):
        super().__init__()
        self.backbone, self.probe = backbone, probe
        self.classes, self.amp, self.reading, self.card = list(classes), amp, reading, card
        self.task, self.units = get_task(task), list(units)
        self.eval().requires_grad_(False)

    @property
    def preprocessing(self) -> ExamplePreprocessing:
        """``preprocessing.transform(image)`` is an input of ``forward``, ``(C, S, S)`` of images of one size."""
        return self.backbone.preprocessing

    def forward(self, images: Inputs) -> Tensor:
        """Normalised images ``(B, C, S, S)``, or other examples as ``preprocessing`` makes them → ``(B, K)``.

        Of examples that differ in their length: a `Ragged`, ``batched`` of them (`iceprobe.backbones.kinds`).
        """
        return self.probe(self.tokens(images))

    def tokens(self, images: Inputs) -> Tokens:
        """What the probe reads, of all its layers from one pass of the backbone."""
        several = bool(self.probe.read.layers)
        return self.backbone.joined(images) if several else self.backbone(images)

    @property
    def shape(self) -> TokenShape:
        """Of these tokens."""
        return self.backbone.joined_shape if self.probe.read.layers else self.backbone.shape

    @torch.no_grad()
    def checked(self) -> Tensor:
        """Outputs ``(K,)`` for :func:`check_input`, by which a loaded model is compared."""
        return self(check_input(self.preprocessing).to(self.backbone.device))[0].float().cpu()

    @torch.no_grad()
    def attention(self, images: Inputs) -> Tensor:
        """Attention weights ``(B, M, N)`` of each predictor over the tokens that the probe reads.

        Prefix tokens, if it reads them, come before the patches.

        Args:
            images: as of :meth:`forward`.

        Raises:
            IceprobeError: if the probe has no attention.
        """
        return self.probe.attention(self.tokens(images))

    @torch.no_grad()
    def predict(
        self, images: Any, *, top: int | None = None, batch_size: int = 64
    ) -> list[list[tuple[str, float]]]:
        """What it predicts of each example: names with probabilities, best first, or with numbers.

        Args:
            images: pictures of PIL or paths, or one of them. Paths of videos or of recordings where the backbone
                reads these; of a backbone of bags a list of lists of pictures or paths, which are read one
                bag at a time.
            top: how many classes (5), or tags (all). Numbers are all given, in their order and the
                target's unit (``units``).
            batch_size: images per forward pass.

        Raises:
            IceprobeError: for anything else, a number below 1, ``top`` of numbers, or an example that can't be
                made ready.
            BadImage: if a file can't be read.
        """
        kind = self.preprocessing.kind
        if isinstance(images, Image.Image | str | os.PathLike):
            images = [images]
        most = most_readings(self.task, len(self.classes), top)
        for name, number in (("top", most), ("batch_size", batch_size)):
            if not isinstance(number, int) or number < 1:
                raise IceprobeError(f"{name}={shown(number)}: give a whole number from 1 up")
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            what = "pictures of PIL or paths" if kind == "image" else f"each {way_of(kind).give}"
            raise IceprobeError(f"images={shown(images)}: give {what}, in a list")
        at_once = 1 if kind == "bag" else batch_size  # a bag may have any number of images
        found = []
        for first in range(0, len(images), at_once):
            inputs = batched([self._input(one) for one in images[first : first + at_once]])
            outputs = self(inputs.to(self.backbone.device))
            found += self.task.readings(outputs, self.classes, most)
        return found

    def _input(self, given: Any) -> Inputs:
        kind = self.preprocessing.kind
        example = opened(kind, given, self.reading)
        try:
            return self.preprocessing.transform(example)
        except BadImage:
            raise
        except IceprobeError as error:
            name = shown(os.fspath(given) if isinstance(given, os.PathLike) else given)
            raise IceprobeError(f"{singular(kind)} {name} can't be made ready ({error})") from error


def what_of(task: Task) -> str:
    """What its outputs are called: ``"logits"`` or ``"values"``."""
    return "values" if task.outputs == "numbers" else "logits"


def most_readings(task: Task, outputs: int, top: int | None) -> int:
    """How many of the K outputs are told of an image, if ``top`` were asked for.

    Raises:
        IceprobeError: for ``top`` of numbers, which have no order.
    """
    if task.outputs == "numbers":
        if top is not None:
            raise IceprobeError(f"top={shown(top)}: all numbers are told, leave it out")
        return outputs
    return top if top is not None else outputs if task.several else TOP


def same_outputs(found: Tensor, expected: Tensor, spread: Sequence[float] = ()) -> bool:
    """Whether outputs ``(…, K)`` differ only by rounding.

    Args:
        spread: of numbers, the standard deviation of the targets of each; empty for logits.
    """
    if found.shape != expected.shape:
        return False
    if spread:  # and what float32 rounds of numbers far from 0
        tolerance = TOLERANCE * expected.new_tensor(spread) + 1e-6 * expected.abs()
    else:
        tolerance = TOLERANCE * expected.abs().max().clamp(min=1.0)
    return bool(((found - expected).abs() <= tolerance).all())


def check_input(preprocessing: ExamplePreprocessing) -> Inputs:
    """An example that is the same on every machine: one sine wave over all numbers of the blank one.

    What isn't 0 in that stays: it says what is there.
    """
    blank = preprocessing.blank()
    values = blank.values if isinstance(blank, Ragged) else blank
    wave = torch.linspace(0, 50, values.numel(), dtype=torch.float64).sin().float()
    wave = torch.where(values == 0, wave.view(values.shape), values)
    return replace(blank, values=wave) if isinstance(blank, Ragged) else wave
