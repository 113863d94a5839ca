"""Looks in Lightning: a callback."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from iceprobe.core.extras import require
from iceprobe.integrations.looks import Look, Looks

_PACKAGE = "pytorch_lightning" if find_spec("lightning") is None else "lightning.pytorch"
if find_spec("lightning") is None and find_spec("pytorch_lightning") is None:
    _PACKAGE = "lightning"  # the package to name
_lightning: Any = require(_PACKAGE, "lightning", "iceprobe.integrations.lightning")
_Callback: Any = _lightning.Callback


class Probe(_Callback):
    """A callback that looks at the encoder while Lightning trains it::

        Trainer(callbacks=[Probe("folder:/data/birds", ["knn", "ep8"], every="1 epoch", at_most="5%",
                                 select=lambda module: module.backbone)])

    Scores go to the trainer's loggers at ``trainer.global_step``, and into ``trainer.callback_metrics``, so
    that ``ModelCheckpoint(monitor="iceprobe/ep8/top1", mode="max")`` works. Steps are the trainer's
    ``global_step``.

    Attributes:
        history: all looks that were taken, each with step, epoch, seconds, scores and results.
    """

    def __init__(
        self,
        data: Any,
        probes: Sequence[str],
        *,
        every: str = "1 epoch",
        at_most: str | float | None = None,
        select: Callable[[Any], Any] | None = None,
        **options: Any,
    ):
        """
        Args:
            data, probes, every, at_most, options: as of :class:`iceprobe.integrations.loop.Probe`.
            select: the module to look at, of the ``LightningModule``: its encoder, a teacher, an average of
                weights. By default the module itself, which then has a method ``tokens(images)``, or returns
                tokens or a map.

        Raises:
            IceprobeError: for a wrong option or probe. The rest is checked when training starts.
        """
        self._looks = Looks(data, probes, every, at_most, options)
        self._select = select or (lambda module: module)

    @property
    def history(self) -> list[Look]:
        return self._looks.history

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._looks.begin(lambda: self._select(pl_module), trainer.strategy.model)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self._looks.every.unit == "step":
            self._look(trainer, pl_module, trainer.current_epoch, trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._looks.every.unit == "epoch":
            done = trainer.current_epoch + 1
            self._look(trainer, pl_module, done, done)

    def _look(self, trainer: Any, pl_module: Any, epoch: int, count: int) -> None:
        step = trainer.global_step
        scores = self._looks.after(
            lambda: self._select(pl_module), step=step, epoch=epoch, count=count
        )
        if scores is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=step)
        pl_module.log_dict(scores, logger=False)  # for callbacks that monitor one
