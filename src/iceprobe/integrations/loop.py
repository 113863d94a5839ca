"""Looks in a training loop of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from iceprobe.core.errors import IceprobeError
from iceprobe.integrations.looks import Look, Looks


class Probe:
    """Looks at ``model`` while a loop trains it::

        look = Probe(model, "bundled:fashion", ["knn", "ep8"], every="1000 steps", at_most="5%")
        for step, batch in enumerate(batches, 1):
            ...                      # forward, backward, optimizer.step()
            scores = look(step)      # None where no look is taken

    The first process of several takes the look, while the others wait or, with ``processes="all"``, make
    their part of the tokens: all make the probe and call it.
    Afterwards parameters, buffers, gradients, modes, ``requires_grad`` and random numbers (Python's,
    numpy's, torch's) are as before, bit by bit.

    Attributes:
        history: all looks that were taken, each with step, epoch, seconds, scores and results.
    """

    def __init__(
        self,
        model: nn.Module,
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
            model: the encoder in training, its average, or what is trained, of which ``select`` takes the
                encoder. Anything that :func:`iceprobe.load_backbone` takes as a module.
            data: a data set, a spec string, or ``{"train": data, "test": data}``.
            probes: spec strings.
            every: ``"1 epoch"``, ``"1000 steps"``: a look is due whenever the number of epochs or steps
                that are done passes a multiple.
            at_most: the share of training time that looks may take, ``"5%"`` or 0.05. With T seconds of
                training so far (looks not counted), L seconds of looks so far and e seconds of the last
                look, a look that is due is taken if L + e ≤ share · T; otherwise it is left out, and the next
                one that is due is considered. The first is always taken. By default there is no limit.
            select: the module to look at, of ``model``; by default all of it.
            options: as of :func:`iceprobe.probe` (``limit``, ``epochs``, ``image_size``, …), and ``keep``:
                memory for decoded images between looks (``"2GB"``; 0: none), ``metrics``: which are logged,
                ``"leading"`` or ``"all"``, ``on_error``: what a look that fails does, ``"log"`` (an
                error is logged and training goes on) or ``"raise"``, ``processes``: which of several make
                tokens, the ``"first"`` or ``"all"``, and ``whole``: where weights are in pieces (FSDP), a
                function that makes the module anew; its weights are gathered into that one.

        Raises:
            IceprobeError: for a wrong option, data that can't be read, probes that don't fit them, a module
                that gives no tokens, and one whose weights are spread over processes.
        """
        self._looks = Looks(data, probes, every, at_most, options)
        self._choose = (lambda: model) if select is None else (lambda: select(model))
        self._looks.begin(self._choose, model)

    @property
    def history(self) -> list[Look]:
        return self._looks.history

    def __call__(
        self, step: int | None = None, *, epoch: int | None = None
    ) -> dict[str, float] | None:
        """Take a look if one is due.

        Args:
            step: steps that are done; needed where ``every`` is in steps.
            epoch: epochs that are done; needed where ``every`` is in epochs.

        Returns:
            Scores by name (``iceprobe/ep8/top1``, with ``_low`` and ``_high``), as fractions; ``None`` if no
            look was taken, or it failed.
        """
        count = epoch if self._looks.every.unit == "epoch" else step
        if count is None:
            unit = self._looks.every.unit
            raise IceprobeError(
                f"every='{self._looks.every}': call the probe with {unit}s that are done, look({unit}={unit})"
            )
        return self._looks.after(self._choose, step=step, epoch=epoch, count=count)
