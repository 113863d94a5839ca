"""Whether a probe was trained long enough, from its curves.

    undertrained  ⇔  steps < 8,  or  E = 1 and steps < 100,  or
                     steps < 100,  e* > E/2  and  L(⌈E/2⌉) − L(E) ≥ 0.05 log C

L(e) is the mean training loss of epoch e at the chosen setting, over its whole schedule of E epochs
and over seeds, e* the chosen epoch; log C is the loss of guessing among C classes. The schedule ends
in a learning rate of 0, so a loss that still falls over the second half would have fallen further in
a longer one, also near 0: attention moves on after the classes of a few images are separated. A probe
whose best epoch lies in the first half is trained long enough, whatever its loss does (linear probes on few
images). From 100 steps on a falling loss shows nothing: it falls as far in fits that gain nothing by
longer training. One epoch shows no fall, and neither do a few steps, since an epoch's loss is measured
before its steps and the first of them are warm-up: there the steps alone decide.

benchmarks/undertrained.py compares the rule with longer fits; docs/choosing.md has its results.

Smaller doubts are warnings and take no probe out of comparisons (`training_warnings`).
"""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from iceprobe.core.text import counted
from iceprobe.results.curves import CurveRow, same_setting
from iceprobe.results.schema import SelectedScore
from iceprobe.results.tables import figure
from iceprobe.tasks.metrics import Metric

TOO_FEW_STEPS = 8
FEW_STEPS = 100
STILL_FALLING = 0.05  # of log C, over the second half of the epochs
ENOUGH_STEPS = 200  # fewer are reported
ROUNDING = 1e-9  # of a mean: where nothing is wrong, both errors are zero
FAR_BELOW = 3.0  # standard errors that the reported score lies below the held-out one


def signs_of_undertraining(
    rows: Iterable[CurveRow],
    selected: Mapping[str, Any],
    *,
    classes: float,
    epochs: int,
    steps: int,
    learning_rates: Iterable[float],
) -> list[str]:
    """What shows that a probe is undertrained, in words; empty where it isn't.

    Args:
        rows: of this probe, of all phases.
        selected: its ``learning_rate``, ``weight_decay`` and ``epoch``.
        classes: C; of unbalanced classes the number of balanced ones that are as hard to guess.
        epochs: E, the length of the schedule.
        steps: of all epochs together.
        learning_rates: the grid.
    """
    if steps >= FEW_STEPS:
        return []
    chosen = selected.get("epoch")
    epoch = chosen if isinstance(chosen, int) else epochs  # in words where each seed has its own
    found = [counted(steps, "training step")]
    falls = _falls(rows, selected, classes, epochs, -(-epochs // 2), "half")
    found += falls
    if steps >= TOO_FEW_STEPS and epochs > 1 and (2 * epoch <= epochs or not falls):
        return []
    if chosen == epochs:
        found.append("its best epoch is the last")
    rates = sorted(learning_rates)
    if len(rates) > 1 and same_setting(rates[-1], selected.get("learning_rate")):
        found.append("its learning rate is the highest tried")
    return found


def training_warnings(
    rows: Iterable[CurveRow],
    selected: Mapping[str, Any],
    *,
    classes: float,
    epochs: int,
    steps: int,
    edge: str | None,
) -> list[str]:
    """What casts doubt on a trained probe's number without showing that it is wrong.

    The loss must not fall by `STILL_FALLING` over the last quarter of the epochs, in which the learning
    rate of a cosine is at most 15% of its peak: it would have fallen further.

    Args:
        rows, selected, classes, epochs, steps: as for :func:`signs_of_undertraining`.
        edge: ``"lowest"`` or ``"highest"``, where the chosen learning rate is that one of those tried.
    """
    found = []
    if edge is not None:
        found.append(f"its learning rate, {selected.get('learning_rate'):g}, is the {edge} tried")
    found += _falls(rows, selected, classes, epochs, epochs - epochs // 4, "quarter")
    if steps < ENOUGH_STEPS:
        found.append(f"{counted(steps, 'training step')}, fewer than {ENOUGH_STEPS}")
    return found


def far_below(
    metric: Metric,
    reported: SelectedScore | None,
    held: SelectedScore | None,
    split: str = "test",
    noun: str = "image",
) -> list[str]:
    """Whether the reported score is far worse than the held-out one that selected the setting.

    If all n examples are right, their standard error is 0 and means nothing. So that of a share is at
    least the one of two equal scores::

        p = (n s + m h)/(n + m)        SE² = p (1 − p) (1/n + 1/m)

    Args:
        metric: of both.
        reported: s, of n examples.
        held: h, of m.
        split: that is reported.
        noun: what an example is called.
    """
    if reported is None or held is None:
        return []
    n, m = (one.size or one.images for one in (reported, held))
    p = (n * reported.mean + m * held.mean) / (n + m)
    alike = math.sqrt(max(0.0, p * (1 - p)) * (1 / n + 1 / m)) if metric.fraction else 0.0
    error = max(math.hypot(reported.error, held.error), alike)
    gap = metric.sign * (held.mean - reported.mean)
    if gap <= FAR_BELOW * error + ROUNDING:
        return []
    ours, theirs = (f"{figure(one.mean, metric)}{metric.unit}" for one in (reported, held))
    return [
        f"it reads {ours} on {split} and {theirs} on the {held.images:,} {noun}s held out of train, "
        f"{gap / error:.1f} standard errors {'more' if metric.higher_is_better else 'less'}: the two "
        f"may hold different kinds of {noun}s"
    ]


def _falls(
    rows: Iterable[CurveRow],
    selected: Mapping[str, Any],
    classes: float,
    epochs: int,
    since: int,
    part: str,
) -> list[str]:
    """Whether the loss still falls from epoch ``since`` on, over the last ``part`` of them."""
    losses = _losses(rows, selected, epochs)
    late, end = losses.get(since, -math.inf), losses.get(epochs, math.inf)
    if late - end < STILL_FALLING * math.log(max(classes, 2)):
        return []
    return [f"its loss still falls ({late:.2f} to {end:.2f} over the last {part})"]


def _losses(rows: Iterable[CurveRow], selected: Mapping[str, Any], epochs: int) -> dict[int, float]:
    """Epoch → mean training loss over seeds at the chosen setting, of a phase that ran to its end."""
    phases: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.is_of(selected) and not row.diverged:
            phases.setdefault(row.phase, {}).setdefault(row.epoch, []).append(row.train_loss)
    whole = (found for found in phases.values() if epochs in found)  # a refit may stop before
    return {epoch: fmean(values) for epoch, values in next(whole, {}).items()}
