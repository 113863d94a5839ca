"""One training step within the available memory, with the gradient of the whole batch.

A batch that doesn't fit passes the backbone in micro-batches: once without a graph for its tokens
T, which the probe reads as one batch (for its BatchNorm), and once more with a graph, for the
gradient of the backbone (where examples differ in their length, each part is as long as its longest, and T
as the longest of all):

    T = cat_m f(x_m);   G = ∂ℓ(probe(T))/∂T;   ∂ℓ/∂θ = Σ_m (∂f(x_m)/∂θ)ᵀ G_m

(Gao et al. 2021, "gradient cache"). The backbone is in evaluation mode, so an example's tokens don't
depend on the batch: the result equals the whole batch's up to rounding, in a third more time.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iceprobe.adaptation.model import Adapted
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, singular
from iceprobe.backbones.native import NativePreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.probes.probe import Probe
from iceprobe.store.forward import autocast
from iceprobe.tasks.classification import Classification
from iceprobe.tasks.task import Task
from iceprobe.tokens import Tokens

log = logging.getLogger("iceprobe")

#: What makes an example of a kind smaller.
SMALLER = {
    "image": "a smaller image_size",
    "bag": "a smaller image_size",
    "clip": "fewer frames",
    "sound": "fewer seconds",
}


@dataclass
class MicroBatch:
    """How many examples pass the backbone with a graph at a time; halved when memory runs out."""

    size: int

    def halve(self, error: BaseException, preprocessing: ExamplePreprocessing) -> None:
        """Raises IceprobeError if the size is one example already."""
        if self.size == 1:
            native = isinstance(preprocessing, NativePreprocessing)
            smaller = "a smaller max_tokens" if native else SMALLER.get(preprocessing.kind)
            raise IceprobeError(
                f"one {singular(preprocessing.kind)} at a time doesn't fit into memory: take --checkpointing, "
                f"--forward-dtype bfloat16 or {smaller or 'a smaller backbone'}"
            ) from error
        self.size = (self.size + 1) // 2
        log.warning("out of memory: %d at a time from here on", self.size)


def backward(
    model: Adapted,
    examples: Inputs,
    targets: Tensor,
    micro: MicroBatch,
    dtype: str = "float32",
    task: Task | None = None,
) -> float:
    """Add the gradient of the batch's mean loss (with the probe's penalty); returns the loss.

    Args:
        model: in training mode, without gradients.
        examples: a batch of `Examples`; where they are elsewhere, each part is moved to the model's device.
        targets: ``(B, …)``, on the model's device.
        micro: halved when memory runs out; the gradient stays that of the whole batch.
        dtype: of the forward pass.
        task: whose loss is minimised, with its scaling and weights; classification by default.

    Raises:
        IceprobeError: if memory doesn't suffice for one example.
    """
    task = task or Classification()
    while True:
        statistics = {name: t.clone() for name, t in model.probe.named_buffers()}
        try:
            if micro.size >= len(examples):
                return _whole(model, examples, targets, dtype, task)
            return _in_parts(model, examples, targets, micro.size, dtype, task)
        except torch.OutOfMemoryError as error:
            micro.size = min(micro.size, len(examples))
            micro.halve(error, model.preprocessing)
        # After the handler, since the error keeps all activations alive.
        for name, kept in statistics.items():
            model.probe.get_buffer(name).copy_(kept)
        model.zero_grad(set_to_none=True)
        if targets.device.type == "cuda":
            torch.cuda.empty_cache()


def scaled(logits: Tensor, task: Task) -> Tensor:
    """The probe's outputs ``(…, K)`` in the target's unit, if the task has a scaling."""
    if task.scaling is None:
        return logits
    shift, scale = (one.to(logits.device) for one in task.scaling)
    return logits.to(shift) * scale + shift


def _whole(model: Adapted, examples: Inputs, targets: Tensor, dtype: str, task: Task) -> float:
    with autocast(targets.device, dtype):
        loss = _loss(model.probe, model.tokens(examples), targets, task)
    loss.backward()
    return float(loss.detach())


def _in_parts(
    model: Adapted, examples: Inputs, targets: Tensor, size: int, dtype: str, task: Task
) -> float:
    parts = examples.split(size)
    with torch.no_grad(), autocast(targets.device, dtype):
        tokens = _joined([model.tokens(part) for part in parts])
    leaves = [tensor.requires_grad_() for tensor in _tensors(tokens)]
    with autocast(targets.device, dtype):
        loss = _loss(model.probe, tokens, targets, task)
    loss.backward()
    # The probe doesn't read every tensor: the gradient of the others is None.
    gradients = [None if leaf.grad is None else leaf.grad.split(size) for leaf in leaves]
    for number, part in enumerate(parts):
        with autocast(targets.device, dtype):
            made = _tensors(model.tokens(part))
        used = [
            (t, g[number][:, : t.shape[1]])  # without padding that the part hasn't
            for t, g in zip(made, gradients, strict=True)
            if g is not None
        ]
        torch.autograd.backward([t for t, _ in used], [g for _, g in used])
    return float(loss.detach())


def _loss(probe: Probe, tokens: Tokens, targets: Tensor, task: Task) -> Tensor:
    logits = probe.of_each_part(tokens)
    targets = targets.repeat_interleave(probe.parts, 0)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return task.loss(scaled(wide, task), targets) + probe.penalty(tokens)


def _tensors(tokens: Tokens) -> list[Tensor]:
    return [tokens.patches, tokens.prefix, *tokens.vectors.values()]


def _joined(parts: list[Tokens]) -> Tokens:
    first = parts[0]
    return Tokens(
        _together([part.patches for part in parts]),
        torch.cat([part.prefix for part in parts]),
        first.grid,
        first.has_class,
        {name: torch.cat([part.vectors[name] for part in parts]) for name in first.vectors},
        _together([part.mask for part in parts]),
        _together([part.coords for part in parts]),
    )


def _together(parts: list[Any]) -> Any:
    """Rows ``(b, N, …)`` of all parts, with zeros behind those of the shorter; None of None."""
    if any(part is None for part in parts):
        return None
    return pad_sequence([row for part in parts for row in part], batch_first=True)
