"""Backbone: a frozen encoder with its preprocessing, images → tokens."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.errors import IceprobeError
from iceprobe.tokens import Tokens


class Backbone(nn.Module):
    """A frozen encoder: always in eval mode, never a gradient.

    ``train()`` changes nothing. A module that belongs to somebody else (``borrowed``, as in a look
    during pre-training) keeps its own training mode and ``requires_grad`` flags: it is put into
    eval mode for the length of each forward pass and given back as it was.

    Attributes:
        spec: what it was asked for by.
        name: short and readable, for folders and tables.
        paradigm: how it was trained, in words; ``"unknown"`` where its name doesn't say.
        preprocessing: image → what ``forward`` takes.
        dim: D.
        grid: rows and columns of the patch tokens, ``None`` where they have no grid.
        num_tokens: N, patch tokens an image.
        num_prefix: P, prefix tokens an image.
        has_class: whether the first prefix token is a class token.
        pooled_class: whether the model was trained on the output of a learned pooler rather than
            on its tokens, so that k-NN and linear probes read the mean of patches.
    """

    def __init__(
        self,
        reader: nn.Module,
        preprocessing: Preprocessing,
        *,
        spec: str,
        name: str,
        paradigm: str = "unknown",
        pooled_class: bool = False,
        settings: Mapping[str, Any] | None = None,
        borrowed: bool = False,
    ):
        """
        Args:
            reader: ``(B, C, S, S)`` → ``Tokens``.
            settings: what besides weights and preprocessing decides the tokens (architecture,
                layer, norm, …), ready for JSON; part of the identity.
            borrowed: whether the module is used by somebody else as well.

        Raises:
            IceprobeError: if the reader doesn't make tokens of images of this preprocessing.
        """
        super().__init__()
        self.reader = reader
        self.preprocessing = preprocessing
        self.spec, self.name, self.paradigm = spec, name, paradigm
        self.pooled_class = pooled_class
        self._settings = dict(settings or {})
        self.training = False
        if not borrowed:
            reader.eval().requires_grad_(False)
        tokens = self._tokens_of_blank_image()
        self.dim = tokens.patches.shape[2]
        self.num_tokens = tokens.patches.shape[1]
        self.num_prefix = tokens.prefix.shape[1]
        self.grid, self.has_class = tokens.grid, tokens.has_class

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tokens:
        """Tokens of normalised images ``(B, C, S, S)``, without gradient.

        Images are brought to the dtype of the weights; they must be on their device.
        """
        with _evaluating(self.reader):
            return self.reader(images.to(self._like.dtype))

    def train(self, mode: bool = True) -> "Backbone":
        """Does nothing: a backbone is frozen."""
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the tokens, ready for JSON; two backbones with equal identities agree.

        Weights are hashed by name, dtype, shape and bytes (parameters and buffers), as they are
        at the time of the call.
        """
        return {
            **self._settings,
            "num_prefix": self.num_prefix,
            "has_class": self.has_class,
            "preprocessing": self.preprocessing.as_dict(),
            "weights": _hash_weights(self.reader),
        }

    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass, counted while running it."""
        with FlopCounterMode(display=False) as counter:
            self(self._blank_image())
        return counter.get_total_flops() // 2

    @property
    def device(self) -> torch.device:
        """Where its weights are, and its images must be."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        return next(self.reader.parameters(), torch.empty(0))

    def _blank_image(self) -> Tensor:
        size = self.preprocessing.image_size
        return torch.zeros(1, self.preprocessing.channels, size, size, device=self.device)

    def _tokens_of_blank_image(self) -> Tokens:
        images = self._blank_image()
        try:
            return self(images)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            size = "x".join(map(str, images.shape[1:]))
            raise IceprobeError(
                f"backbone {self.spec!r} failed on a blank {size} image "
                f"({' '.join(str(error).split())}): check image_size, mean and std"
            ) from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, every submodule as it was."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            raise IceprobeError(f"weights {name!r} are on the meta device: load them first")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
