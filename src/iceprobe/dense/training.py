"""Segmentation probes that learn side by side: all learning rates and seeds of all probes from one
read of each batch.

    tokens ─▶ logits (G, B, N, C) of a probe's G members ─▶ upsampled ─▶ cross-entropy of every pixel

A member's loss is the mean over the batch's pixels. Members don't touch each other, so the sum of
their losses has each one's own gradient. Weights that read tokens are learned in whitened coordinates
(`iceprobe.fitting.whitening`): W = W' A, the same probe, a shorter way there.
"""

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from iceprobe.dense.miou import IGNORE, Counts, count
from iceprobe.dense.probes import Grid, LinearSegmentation, build, upsample
from iceprobe.fitting.feed import Batch
from iceprobe.fitting.members import Member
from iceprobe.fitting.optimisers import build_optimizer, warmup_cosine
from iceprobe.fitting.whitening import Whitening

PIXEL_LOGITS = 2**24  # held at once for all members of a probe: 64 MB, a few times over


class Members:
    """Members of one probe, side by side.

    Args:
        members: G of them, of one probe.
        classes: C.
        whitening: of the training tokens.
        grid: rows and columns of the patches.
        device: to learn on.

    Attributes:
        parameters: name → leaf ``(G, …)`` that gradients reach, token weights as W'.
    """

    def __init__(
        self,
        members: list[Member],
        classes: int,
        whitening: Whitening,
        grid: Grid,
        device: torch.device,
    ):
        self.members, self.grid, self.classes = members, grid, classes
        probes = [_seeded(member, len(whitening.mean), classes) for member in members]
        self.template = probes[0].to(device)
        self.template.mean.copy_(whitening.mean)
        self.template.std.copy_(whitening.std)
        self.matrix = whitening.matrix.to(device)
        inverse = torch.linalg.inv(self.matrix.double()).float()
        self.parameters: dict[str, Tensor] = {}
        for name, _ in self.template.named_parameters():
            stacked = torch.stack([p.get_parameter(name).detach().to(device) for p in probes])
            if name in self.template.reads_tokens:
                stacked = stacked @ inverse
            self.parameters[name] = stacked.requires_grad_()
        self._views = [
            {name: nn.Parameter(t.detach()[g]) for name, t in self.parameters.items()}
            for g in range(len(members))
        ]
        self._optimizer = build_optimizer(
            "adamw",
            [
                {"params": list(view.values()), "lr": m.learning_rate, "weight_decay": 0.0}
                for view, m in zip(self._views, members, strict=True)
            ],
        )

    @property
    def probe(self) -> str:
        return self.members[0].probe

    def weights(self) -> dict[str, Tensor]:
        """Parameters as the probe uses them, ``(G, …)``."""
        return {
            name: t @ self.matrix if name in self.template.reads_tokens else t
            for name, t in self.parameters.items()
        }

    def pixels(self, tokens: Tensor, side: int) -> Tensor:
        """Logits of every pixel, ``(G, b, C, S, S)``."""
        return upsample(functional_call(self.template, self.weights(), (tokens,)), self.grid, side)

    def few(self, images: int, side: int) -> Iterator[slice]:
        """The images that are worked on together."""
        each = len(self.members) * self.classes * side**2
        size = max(1, PIXEL_LOGITS // each)
        return (slice(start, start + size) for start in range(0, images, size))

    def step(self, tokens: Tensor, truth: Tensor, factor: float) -> Tensor:
        """One step of all members at ``factor`` of their learning rates; their losses ``(G,)``."""
        counted = (truth != IGNORE).sum().clamp(min=1)
        total = torch.zeros(len(self.members), device=tokens.device)
        for images in self.few(len(tokens), truth.shape[-1]):
            logits = self.pixels(tokens[images], truth.shape[-1])
            losses = pixel_losses(logits, truth[images]) / counted
            losses.sum().backward()
            total += losses.detach()
        for name, stacked in self.parameters.items():
            for g, view in enumerate(self._views):
                view[name].grad = None if stacked.grad is None else stacked.grad[g]
        for group, member in zip(self._optimizer.param_groups, self.members, strict=True):
            group["lr"] = member.learning_rate * factor
        self._optimizer.step()
        for stacked in self.parameters.values():
            stacked.grad = None
        return total

    def finite(self) -> list[bool]:
        """Of each member, whether all that it has learned is finite."""
        learned = [t.detach().flatten(1).isfinite().all(1) for t in self.parameters.values()]
        return torch.stack(learned).all(0).tolist()

    def member(self, g: int) -> LinearSegmentation:
        """Member ``g`` as an ordinary module, a copy."""
        probe = copy.deepcopy(self.template)
        with torch.no_grad():
            for name, weights in self.weights().items():
                probe.get_parameter(name).copy_(weights[g])
        return probe.eval()


def pixel_losses(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy summed over pixels: ``(G, b, C, S, S)``, ``(b, S, S)`` → ``(G,)``."""
    members, images = logits.shape[:2]
    wanted = truth.long().expand(members, *truth.shape).flatten(0, 1)
    losses = F.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=IGNORE, reduction="none")
    return losses.reshape(members, images, -1).sum((1, 2))


def truth_of_masks(masks: Tensor, labels: Tensor) -> Tensor:
    """Classes of pixels: ``(B, S, S)`` of 0 and 1, ``(B,)`` → ``(B, S, S)`` uint8.

    0 is background, the image's label + 1 the object. A mask without a pixel on the object may be of
    an image that has none: it is ignored.
    """
    on = masks > 0
    known = on.flatten(1).any(1)[:, None, None]
    truth = torch.where(on, labels[:, None, None] + 1, 0)
    return torch.where(known, truth, IGNORE).to(torch.uint8)


def train_epoch(
    groups: list[Members],
    batches: Iterable[Batch],
    factors: Iterator[float],
    stepped: Callable[[], None],
) -> list[Tensor]:
    """One pass over the training images; the mean loss of each member, ``(G,)`` a probe."""
    sums, steps = [torch.zeros(len(group.members)) for group in groups], 0
    for batch in batches:
        truth, factor = truth_of_masks(batch.inputs["mask"], batch.labels), next(factors)
        for group, total in zip(groups, sums, strict=True):
            total += group.step(batch.inputs["patches"], truth, factor).cpu()
        del batch
        steps += 1
        stepped()
    return [total / max(1, steps) for total in sums]


def schedule(steps: int, warmup: int) -> Iterator[float]:
    """Factors of the learning rate, one a step."""
    return (warmup_cosine(step, steps, warmup) for step in range(steps))


@torch.no_grad()
def evaluate(groups: list[Members], batches: Iterable[Batch]) -> list[list[Counts]]:
    """Counts of each member of each probe over all images of ``batches``."""
    found: list[list[list[Counts]]] = [[[] for _ in group.members] for group in groups]
    for batch in batches:
        truth = truth_of_masks(batch.inputs["mask"], batch.labels)
        for group, parts in zip(groups, found, strict=True):
            for images in group.few(len(truth), truth.shape[-1]):
                called = group.pixels(batch.inputs["patches"][images], truth.shape[-1]).argmax(2)
                wanted, all_called = truth[images].cpu().numpy(), called.cpu().numpy()
                for part, one in zip(parts, all_called, strict=True):
                    part.append(count(wanted, one, group.classes))
        del batch
    return [[Counts.joined(part) for part in parts] for parts in found]


def tokens_of(batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Single tokens, ``(b·N, D)`` on the processor, for the whitening."""
    return (batch.inputs["patches"].flatten(0, 1).cpu() for batch in batches)


def _seeded(member: Member, dim: int, classes: int) -> LinearSegmentation:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(member.seed)
        return build(member.probe, dim, classes)
