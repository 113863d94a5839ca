"""An exported probe without a backbone: tokens of your own → outputs.

outputs = probe(tokens, mask)            logits of classes or tags, or numbers in the target's unit
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.exporting.card import Card
from iceprobe.exporting.exported import most_readings
from iceprobe.probes.probe import Probe
from iceprobe.store.given_arrays import as_tensor
from iceprobe.store.split import mask_of
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import Tokens, TokenShape

CHECKED = (5, 3, 8)  # tokens of the bags by which outputs are compared


class TokenProbe(nn.Module):
    """A fitted probe for tokens that somebody extracts, in evaluation mode.

    Attributes:
        probe: tokens → outputs.
        shape: of the tokens that it was fitted on.
        classes: K names of classes, tags or numbers.
        task: what the outputs are.
        units: of the numbers of a regression; empty if they aren't known.
        card: ``model.json``, if it was loaded from a folder.
        source: what it was loaded from: the folder, or ``"hub:OWNER/NAME@COMMIT"``, which loads the same again.
    """

    source: str | None = None

    def __init__(
        self,
        probe: Probe,
        shape: TokenShape,
        classes: Sequence[str],
        *,
        card: Card | None = None,
        task: str = "classification",
        units: Sequence[str] = (),
    ):
        super().__init__()
        self.probe, self.shape, self.classes, self.card = probe, shape, list(classes), card
        self.task, self.units = get_task(task), list(units)
        self.eval().requires_grad_(False)

    def forward(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, N, D)``, of which ``mask (B, N)`` says which rows are tokens → logits or numbers ``(B, K)``.

        Of a probe that reads prefix tokens or further vectors: `Tokens`. Of vectors ``(B, D)``.
        """
        return self.probe(tokens, mask)

    def check_patches(self, remedy: str) -> None:
        """Raise an `IceprobeError` with a ``remedy`` for a probe that reads more than patch tokens."""
        if set(self.probe.read.names) - {"patches", "mean"} or self.probe.read.layers:
            raise IceprobeError(
                f"a probe with input={self.probe.input} reads more than tokens (N, {self.shape.dim}): {remedy}"
            )

    @torch.no_grad()
    def checked(self) -> Tensor:
        """Outputs ``(K,)`` for the second of :func:`check_tokens`, the shortest, which is padded where any is."""
        return self(check_tokens(self.shape))[1].float()

    @torch.no_grad()
    def attention(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, N)`` of the tokens, 0 in padding.

        Raises:
            IceprobeError: if the probe has no attention.
        """
        return self.probe.attention(tokens, mask)

    @torch.no_grad()
    def predict(
        self, examples: Sequence[Any], *, top: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """What it predicts of each example: names with probabilities, best first, or with numbers.

        Args:
            examples: arrays or tensors, ``(N_i, D)`` each, or ``(D,)`` where it was fitted on one vector an
                example. One is computed at a time.
            top: how many classes (5), or tags (all). Numbers are all given, in their order and unit.

        Raises:
            IceprobeError: for anything else, and for a probe that reads more than patch tokens.
        """
        self.check_patches(
            "call it with Tokens, probe(tokens), which have all that it was fitted on"
        )
        most = most_readings(self.task, len(self.classes), top)
        found = []
        for number, one in enumerate(examples):
            tokens = as_tensor(one, f"example {number}").float()
            axes, wanted = (2, "N, ") if self.shape.num_tokens else (1, "")
            if tokens.ndim != axes or tokens.shape[-1] != self.shape.dim or not len(tokens):
                raise IceprobeError(
                    f"example {number} has the shape {tuple(tokens.shape)}: give ({wanted}{self.shape.dim}), as the "
                    "probe was fitted on"
                )
            if not tokens.isfinite().all():
                raise IceprobeError(f"example {number} is not finite: mend it or leave it out")
            found += self.task.readings(self(tokens[None]), self.classes, most)
        return found


def check_tokens(shape: TokenShape) -> Tokens:
    """Examples that are the same on every machine, sine waves.

    Where examples may differ in their number of tokens these do.
    """
    longest = max(CHECKED) if shape.ragged else max(1, shape.num_tokens)
    count = shape.num_prefix + longest
    size = (len(CHECKED), count, shape.dim)
    wave = torch.linspace(0, 50, int(np.prod(size)), dtype=torch.float64).sin().float().view(size)
    mask = mask_of(np.array(CHECKED)) if shape.ragged else None
    prefix, patches = wave.split([shape.num_prefix, longest], 1)
    vectors = {name: wave.new_ones(len(CHECKED), width) for name, width in shape.vectors.items()}
    return Tokens(patches, prefix, None, shape.has_class, vectors, mask)
