"""Looks in Hugging Face's Trainer: a callback."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.text import shown
from iceprobe.integrations.looks import Look, Looks

_transformers: Any = require("transformers", "transformers", "iceprobe.integrations.transformers")
_Callback: Any = _transformers.TrainerCallback


class Probe(_Callback):
    """A callback that looks at the encoder while a ``Trainer`` trains it::

        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.add_callback(Probe(trainer, "folder:/data/birds", ["knn", "ep8"], every="1000 steps",
                                   select=lambda model: model.vit))

    It takes the trainer, by whose ``log`` scores go to its loggers and its ``log_history``. (Its loggers put
    ``train/`` before every name but their own.) Steps are ``state.global_step``.

    Attributes:
        history: all looks that were taken, each with step, epoch, seconds, scores and results.
    """

    def __init__(
        self,
        trainer: Any,
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
            trainer: that is to log.
            data, probes, every, at_most, options: as of :class:`iceprobe.integrations.loop.Probe`.
            select: the module to look at, of the trainer's model, as of
                :class:`iceprobe.integrations.lightning.Probe`.

        Raises:
            IceprobeError: for a wrong option or probe. The rest is checked when training starts.
        """
        if not isinstance(trainer, _transformers.Trainer):
            raise IceprobeError(
                f"Probe({shown(trainer)}, …): the first argument is the trainer, "
                "trainer.add_callback(Probe(trainer, data, probes))"
            )
        self._trainer = trainer
        self._looks = Looks(data, probes, every, at_most, options)
        self._select = select or (lambda module: module)

    @property
    def history(self) -> list[Look]:
        return self._looks.history

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self._looks.begin(lambda: self._select(model), self._trainer.model_wrapped)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self._looks.every.unit == "step":
            self._look(state, control, model, state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self._looks.every.unit == "epoch":
            self._look(state, control, model, math.floor(state.epoch + 1e-6))

    def _look(self, state: Any, control: Any, model: Any, count: int) -> None:
        scores = self._looks.after(
            lambda: self._select(model), step=state.global_step, epoch=state.epoch, count=count
        )
        if scores is None:
            return
        own = control.should_log  # which a log resets, though the trainer's own is still to come
        self._trainer.log(dict(scores))
        control.should_log = own
