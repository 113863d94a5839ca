"""Models of sound: what they read of a recording, and when each of their tokens is.

Models of samples (wav2vec 2.0, HuBERT, WavLM) give a frame every 20 ms or so, as many as the recording has
room for: convolutions of kernel k and stride s without padding, L → ⌊(L − k) / s⌋ + 1. Padding changes none of
them: models that were trained with an attention mask get it, the others (``feat_extract_norm="group"``, whose
first norm is over time) read recordings of one length at a time. Whisper reads windows of 30 s; its tokens
beyond the recording's end are left out. AST and CLAP make a picture of a window, so their tokens lie on a grid
of frequency and time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.backbones.block_reader import BlockReader
from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens

HOP = 160  # samples between Whisper's frames, of which two make a token
Run = tuple[Tensor, dict[str, Any]]  # rows of a batch, and the model's arguments for them


class Frames:
    """Tokens one after the other in time, of a model with the configuration ``config``."""

    def __init__(self, config: Any):
        self.config = config

    def shortest(self) -> int:
        """Samples of one token."""
        return 1

    def times(self, count: int, rate: int) -> np.ndarray:
        """``(count,)``: the seconds at the middle of each token."""
        raise NotImplementedError

    def lengths(self, inputs: Inputs) -> Tensor:
        """``(B,)``: tokens of each recording, at least one."""
        raise NotImplementedError

    def runs(self, inputs: Inputs) -> Iterator[Run]:
        """Forward passes; every recording is in one of them."""
        raise NotImplementedError


class WaveFrames(Frames):
    """Of samples ``(L,)``, by convolutions."""

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        return list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))

    @property
    def alone(self) -> bool:
        """Whether padding would reach a norm over time, or be shifted by one before a convolution."""
        shifted = getattr(self.config, "conv_pos_batch_norm", False)
        return bool(self.config.feat_extract_norm == "group" or shifted)

    def shortest(self) -> int:
        length = 1
        for kernel, stride in reversed(self._convolutions):
            length = (length - 1) * stride + kernel
        return length

    def times(self, count: int, rate: int) -> np.ndarray:
        hop = math.prod(stride for _, stride in self._convolutions)
        return (np.arange(count) * hop + (self.shortest() - 1) / 2) / rate

    def lengths(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Ragged)
        lengths = inputs.lengths
        for kernel, stride in self._convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def runs(self, inputs: Inputs) -> Iterator[Run]:
        assert isinstance(inputs, Ragged)
        padded, lengths = inputs.padded(), inputs.lengths
        if not self.alone:
            every = torch.arange(len(lengths), device=lengths.device)
            yield every, {"input_values": padded, "attention_mask": inputs.mask.long()}
            return
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            yield rows, {"input_values": padded[rows, :length]}


class WhisperFrames(Frames):
    """Of a window's features ``(B, bands + 1, F)``, whose last row says which frames are the recording's."""

    def times(self, count: int, rate: int) -> np.ndarray:
        return (np.arange(count) + 0.5) * (2 * HOP / rate)

    def lengths(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        return (inputs[:, -1, ::2] > 0).sum(1).clamp(min=1)

    def runs(self, inputs: Inputs) -> Iterator[Run]:
        assert isinstance(inputs, Tensor)
        yield torch.arange(len(inputs), device=inputs.device), {"input_features": inputs[:, :-1]}


@dataclass(frozen=True)
class Sound:
    """How a model reads recordings.

    Attributes:
        extractor: the class of transformers that makes its features.
        frames: its tokens in time; ``None`` if they lie on a grid.
        grid: configuration → bands and columns of the tokens, where the model's output doesn't show them.
        said: what is assumed of recordings shorter than the window, ``{seconds}`` long.
    """

    extractor: str
    frames: type[Frames] | None = None
    grid: Callable[[Any], tuple[int, int]] | None = None
    said: str = ""


class FrameReader(BlockReader):
    """Tokens of each recording's own frames."""

    def __init__(self, reader: BlockReader, frames: Frames, rate: int):
        super().__init__(reader.model, reader.paths, reader.layers, reader.norm)
        self.frames, self.rate = frames, rate

    def forward_layers(self, images: Any) -> list[Tokens]:
        """Tokens of recordings, one for each of ``layers``, with a mask and the seconds of each."""
        lengths = self.frames.lengths(images)
        count = int(lengths.max())
        mask = torch.arange(count, device=lengths.device) < lengths[:, None]
        whole: dict[int, Tensor] = {}
        for rows, named in self.frames.runs(images):
            found, _ = self.caught(**named)
            for layer, features in found.items():
                made = self.normed(layer, features)[:, :count]
                size = (len(lengths), count, made.shape[2])
                into = whole.setdefault(layer, made.new_zeros(size))
                into[rows, : made.shape[1]] = made
        times = torch.from_numpy(self.frames.times(count, self.rate)).float().to(lengths.device)
        coords = times[None, :, None].expand(len(lengths), -1, -1)
        return [
            Tokens(whole[layer], whole[layer][:, :0], mask=mask, coords=coords)
            for layer in self.layers
        ]


def ast_grid(config: Any) -> tuple[int, int]:
    """Bands and columns of AST's patches."""
    side = config.patch_size
    down = (config.num_mel_bins - side) // config.frequency_stride + 1
    return down, (config.max_length - side) // config.time_stride + 1


def clap_map(model: Any, output: Any, position: int) -> Tensor:
    """A block of CLAP's Swin: four pieces of time one below the other → bands and columns ``(B, D, F, T)``."""
    tokens = output if isinstance(output, Tensor) else output[0]
    side, pieces = round(tokens.shape[1] ** 0.5), model.audio_encoder.freq_ratio
    square = tokens.transpose(1, 2).unflatten(2, (pieces, side // pieces, side))
    return square.transpose(2, 3).flatten(3)


def clap_inputs(model: Any, features: Tensor) -> dict[str, Any]:
    """No recording is longer than the window, so nothing is fused."""
    shape = (features.shape[0], 1)  # len() would fix it in an exported graph
    longer = torch.zeros(shape, dtype=torch.bool, device=features.device)
    return {"input_features": features, "is_longer": longer}


def check_extractor(extractor: Any, sound: Sound, spec: str) -> dict[str, Any]:
    """The fields of a model's feature extractor.

    Raises:
        IceprobeError: if it is another than the model's, or adds noise.
    """
    name = type(extractor).__name__
    if name != sound.extractor:
        raise IceprobeError(
            f"{spec}: its preprocessor_config.json is of a {name}, and its model reads what "
            f"{sound.extractor} makes: put that file of the model beside it"
        )
    fields: dict[str, Any] = extractor.to_dict()
    if fields.get("dither"):
        raise IceprobeError(
            f"{spec}: its {name} adds noise (dither={fields['dither']}), so tokens would differ from run to "
            "run: set it to 0.0 in preprocessor_config.json"
        )
    return fields
