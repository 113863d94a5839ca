"""The context that the phases of a fit share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.pieces import Cutting
from iceprobe.fitting.shuffling import ROWS, Shuffle
from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.fitting.whitening import whitening
from iceprobe.machine.progress import ProgressCallback
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.inputs import is_vector
from iceprobe.probes.probe import Probe, build_for
from iceprobe.protocols.protocol import Protocol
from iceprobe.results.curves import CurveRow
from iceprobe.store.quantisation import check_rounding, rounding
from iceprobe.tasks.classification import Classification
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.selecting import kept_for
from iceprobe.tasks.task import ClassWeight, Keep, Task
from iceprobe.tokens import TokenShape


@dataclass
class FitContext:
    """The context of a fit."""

    protocol: Protocol  # of the fit
    shape: TokenShape  # of the tokens
    num_outputs: int  # K, of every probe
    run_seed: int  # of the held-out part and of the order of batches
    device: torch.device  # where and in which dtype tokens are multiplied
    dtype: torch.dtype
    checkpoint: Checkpoint  # the file that keeps the fit's state
    progress: ProgressCallback  # called with `(stage, done, total)`
    task: Task = field(default_factory=Classification)  # loss, records and metrics
    metric_name: str | None = None  # of the metric that selects; the task's primary one by default
    class_weight: ClassWeight = "none"  # how classes or tags count in the loss
    keep: Keep | None = None  # what records must keep for that metric; set when it is first used
    shuffle: Shuffle = ROWS  # order of the epochs; set once the tokens are cached
    max_tokens: int | None = None  # rows of a piece of a batch at most; by default by their bytes
    draw_tokens: int | None = None  # tokens of a training example that a step reads; all by default
    cutting: Cutting | None = None  # how batches come in pieces; set with the order
    # called with a training, its rows of an epoch, the metric and what names the training (`Session.curves`)
    tell: Callable[[str, Sequence[CurveRow], str, str], None] | None = None

    @property
    def metric(self) -> Metric:
        """The metric that selects."""
        return self.task.metric(self.metric_name)

    def told(self, of: str, rows: Sequence[CurveRow], once: str = "") -> None:
        """Tell the loggers, if there are any, of the rows of a training; ``once`` names it where ``of`` doesn't."""
        if self.tell is None:
            return
        for epoch in sorted({row.epoch for row in rows}):
            self.tell(of, [row for row in rows if row.epoch == epoch], self.metric.name, once)

    def build(self, label: str, seed: int | None = None) -> Probe:
        """The probe called ``label`` for these tokens and outputs."""
        return build_for(self.shape, label, self.num_outputs, seed, self.task)

    @property
    def warmup_epochs(self) -> float:
        """The protocol's warm-up, at most half of the schedule."""
        return min(self.protocol.warmup_epochs, self.protocol.epochs / 2)

    def groups(self, members: Sequence[Member], train: Feed, batch_size: int) -> Sequence[Stacked]:
        """A group a probe, in whitened or standardised coordinates measured on ``train``.

        Raises:
            IceprobeError: if the dtype of the products can't hold the tokens.
        """
        shrinkage = self.protocol.whitening
        whitenings = {
            name: whitening(partial(vectors, train, name, batch_size), shrinkage, train.measured)
            for name in train.inputs
            if shrinkage is not None and is_vector(name)
        }
        coordinates, scaling = self._coordinates(train), self.learning(train).scaling
        return make_groups(
            list(members),
            self.shape,
            self.num_outputs,
            self.device,
            whitenings,
            coordinates,
            scaling,
            self.task,
        )

    def kept_for(self, held_out: Feed) -> Keep:
        """What records of held-out examples must keep for the metric that selects.

        Raises:
            IceprobeError: as `tasks.selecting.kept_for`.
        """
        if self.keep is None:
            self.keep = kept_for(self.task, self.metric, self.num_outputs, held_out.targets)
        return self.keep

    def learning(self, train: Feed) -> Task:
        """The task for training on the examples of ``train``: its scaling and class weights are theirs."""
        return self.task.learning(train.targets, self.class_weight)

    def _coordinates(self, train: Feed) -> dict[str, Coordinates]:
        """Coordinates of the tokens of each input; refuses a dtype that can't hold the tokens."""
        found: dict[str, Coordinates] = {}
        narrow, standardised = self.dtype.itemsize < 4, self.protocol.coordinates == "standardised"
        if not (narrow or standardised):
            return found
        for name in sorted(name for name in train.inputs if not is_vector(name)):
            tokens = train.sample(name, self.run_seed)
            if narrow:
                dtype = str(self.dtype).removeprefix("torch.")
                share = float(rounding(tokens[None], tokens[None].to(self.dtype)))
                check_rounding(share, f"fit_dtype={dtype}", "take fit_dtype=float32")
            if standardised:
                found[name] = Coordinates.of(tokens)
        return found


def vectors(feed: Feed, name: str, batch_size: int) -> Iterator[Tensor]:
    """The pooled vectors called ``name``, ``(b, D)`` at a time; patches stay unread."""
    return (batch.inputs[name] for batch in feed.reading({name}).in_order(batch_size))
