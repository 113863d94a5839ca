"""Members of a dense probe, which train together with those of other probes.

    tokens ─▶ logits (G, B, N, K) of a probe's G members ─▶ upsampled ─▶ the task's loss of every pixel

Outputs z of a task with a scaling are handed out as σ z + μ, in training and by the fitted modules. Weights of
tokens are trained in whitened coordinates (`fitting/whitening.py`): W = W' A, the same probe in fewer steps.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.shuffling import ROWS, Shuffle
from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.fitting.whitening import Whitening
from iceprobe.probes.segmentation import Grid, LinearSegmentation, build, upsample
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.pixels import PixelTask
from iceprobe.tasks.records import Record
from iceprobe.tasks.task import Keep, Task

PIXEL_LOGITS = 2**24  # held at once for all members of a probe: 64 MB, a few times over


class PatchGroup(Stacked):
    """G members of one dense probe of K outputs, stacked; token weights are trained as W'.

    Args:
        members: of the probe.
        outputs: K.
        whitening: of the tokens.
        grid: of the patches.
        device: of the parameters.
        scaling: μ and σ of the outputs, ``(K,)`` each, if the task has them.
    """

    def __init__(
        self,
        members: Sequence[Member],
        outputs: int,
        whitening: Whitening,
        grid: Grid,
        device: torch.device,
        scaling: tuple[Tensor, Tensor] | None = None,
    ):
        self.scaling = None
        if scaling is not None:
            shift, scale = scaling
            self.scaling = shift.to(device, torch.float32), scale.to(device, torch.float32)
        self.members, self.grid = list(members), grid
        probes = [_seeded(member, len(whitening.mean), outputs) for member in members]
        self.template = probes[0].to(device)
        self.template.mean.copy_(whitening.mean)
        self.template.std.copy_(whitening.std)
        self.matrix = whitening.matrix.to(device)
        inverse = torch.linalg.inv(self.matrix.double()).float()
        self.parameters = {}
        for name, _ in self.template.named_parameters():
            stacked = torch.stack([p.get_parameter(name).detach().to(device) for p in probes])
            if name in self.template.reads_tokens:
                stacked = stacked @ inverse
            self.parameters[name] = stacked.requires_grad_()
        self.views = self._views()

    @property
    def num_outputs(self) -> int:
        return self.template.bias.shape[-1]

    def weights(self) -> dict[str, Tensor]:
        """Parameters as the probe uses them, ``(G, …)``."""
        return {
            name: t @ self.matrix if name in self.template.reads_tokens else t
            for name, t in self.parameters.items()
        }

    def pixels(self, tokens: Tensor, side: int) -> Tensor:
        """Outputs of every pixel, ``(G, b, K, S, S)``."""
        logits = functional_call(self.template, self.weights(), (tokens,))
        if self.scaling is not None:
            shift, scale = self.scaling
            logits = logits * scale + shift
        return upsample(logits, self.grid, side)

    def few(self, images: int, side: int) -> Iterator[slice]:
        """Slices of images whose logits are computed at once."""
        size = max(1, PIXEL_LOGITS // (len(self) * self.num_outputs * side**2))
        return (slice(start, start + size) for start in range(0, images, size))

    def loss_parts(self, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Parts of the members' losses on a batch, ``(G,)`` each; their sum is the loss."""
        truth = batch.labels
        for images in self.few(len(truth), truth.shape[-1]):
            logits = self.pixels(batch.inputs["patches"][images], truth.shape[-1])
            yield task.loss(logits, truth[images], truth)

    def records(self, batch: Batch, task: Task, keep: Keep) -> Iterator[Record]:
        """The task's records of the batch's examples, in parts."""
        truth = batch.labels
        for images in self.few(len(truth), truth.shape[-1]):
            logits = self.pixels(batch.inputs["patches"][images], truth.shape[-1])
            yield task.record(logits, truth[images], keep)

    def probe(self, g: int) -> LinearSegmentation:
        probe = copy.deepcopy(self.template)
        with torch.no_grad():
            for name, weights in self.weights().items():
                probe.get_parameter(name).copy_(weights[g])
            if self.scaling is not None:
                probe.scale(*self.scaling)
        return probe.eval()


class PixelFeed(Feed):
    """Patch tokens with the targets of pixels, ``(B, S, S)``, as labels of a batch.

    Args:
        split: with patch tokens and the task's maps.
        task: of the targets.
        rows, device, shuffle: as of a `Feed`.
    """

    def __init__(
        self,
        split: StoredSplit,
        task: PixelTask,
        rows: NDArray,
        device: torch.device,
        shuffle: Shuffle = ROWS,
    ):
        super().__init__(split, rows, {"patches", task.map}, device, torch.float32, shuffle)
        self.task = task

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """As of a `Feed`, with epochs counted from 1."""
        return super().shuffled(batch_size, seed, epoch + 1)

    def weight(self, images: int) -> int:
        """Every step has the same weight, whatever pixels it has."""
        return 1

    def tokens(self, batch_size: int) -> Iterator[Tensor]:
        """Single tokens, ``(b·N, D)`` on the processor, for the whitening."""
        return (batch.inputs["patches"].flatten(0, 1).cpu() for batch in self.in_order(batch_size))

    def _gather(self, rows: NDArray, positions: NDArray) -> Batch:
        batch = super()._gather(rows, positions)
        truth = self.task.truth(batch.inputs.pop(self.task.map), batch.labels)
        return Batch(batch.inputs, truth)


def _seeded(member: Member, dim: int, outputs: int) -> LinearSegmentation:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(member.seed)
        return build(member.probe, dim, outputs)
