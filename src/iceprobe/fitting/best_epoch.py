"""`paper`: each seed at its best epoch on the reported split, the last epoch beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.fitted_probe import FittedProbe
from iceprobe.fitting.phase import Best, Phase
from iceprobe.fitting.stacked import Stacked
from iceprobe.protocols.grids import Grid, at_edge
from iceprobe.protocols.protocol import images_per_step
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Score
from iceprobe.tasks.records import Arrays, Record, joined, of_members


def at_best_epoch(
    phase: Phase,
    group: Stacked,
    best: Best,
    context: FitContext,
    reported: Feed,
    grids: Mapping[str, Grid],
    share: Mapping[str, float],
) -> FittedProbe:
    """The setting with the best mean over seeds of their best epochs.

    As in :func:`iceprobe.protocols.choosing.choose`, a setting whose seeds are all there goes before
    one that has lost some.
    """
    label, metric = group.members[0].probe, context.metric
    sign = metric.sign
    worst = (
        metric.range[0] if sign > 0 else metric.range[1]
    )  # of a member that diverged; None: no end
    rows = [row for row in phase.rows if row.probe == label]
    peaks: dict[tuple[float, float], dict[int, float]] = {}
    for row in rows:
        value = worst if row.eval_accuracy is None else row.eval_accuracy
        if value is not None:
            seeds = peaks.setdefault((row.learning_rate, row.weight_decay), {})
            seeds[row.seed] = sign * max(sign * seeds.get(row.seed, value), sign * value)
    means = {point: float(np.mean(list(seeds.values()))) for point, seeds in peaks.items()}
    by_setting: dict[tuple[float, float], list[int]] = {}
    for g, member in enumerate(group.members):
        by_setting.setdefault((member.learning_rate, member.weight_decay), []).append(g)
    chosen = max(by_setting, key=lambda point: (len(by_setting[point]), sign * means[point]))
    mine = by_setting[chosen]
    kept = [group.members[g].seed for g in mine]
    last = {
        row.seed: row.eval_accuracy or 0.0
        for row in rows
        if row.epoch == phase.epoch and (row.learning_rate, row.weight_decay) == chosen
    }
    epochs = [int(best.epoch[g]) for g in mine]
    probes = [best.probes[g] for g in mine]
    record = of_members(best.record, mine)
    # Logits are large, and of best epochs kept of the chosen setting alone: its probes make them again.
    record = _logits(probes, reported, context) | record
    return FittedProbe(
        label,
        kept,
        probes,
        Predictions.of(Arrays(record), reported.targets),
        {
            "learning_rate": chosen[0],
            "weight_decay": chosen[1],
            "epoch": epochs[0] if len(set(epochs)) == 1 else ", ".join(map(str, epochs)),
        },
        context.protocol.selected_on,
        grids[label],
        len(means),
        sign * (means[chosen] - float(np.median(list(means.values())))),
        Score.of(last[seed] for seed in kept),
        share[label] * phase.seconds,
        edge=at_edge(grids[label].learning_rates, chosen[0]),
    )


@torch.no_grad()
def _logits(probes: list[Any], reported: Feed, context: FitContext) -> Record:
    """All that the task keeps of ordinary modules of one probe."""
    size, task = images_per_step(context.protocol, len(reported)), context.task
    (name,) = {probe.input for probe in probes}
    parts = []
    for batch in reported.in_order(size):
        tokens = batch.inputs[str(name)]
        narrow = tokens.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(tokens.device.type, tokens.dtype if narrow else None, enabled=narrow):
            descriptors = [probe.pooling(probe.select(tokens)) for probe in probes]
        logits = [
            probe.classifier(probe.norm(y.to(probe.classifier.weight.dtype)))
            for probe, y in zip(probes, descriptors, strict=True)
        ]
        parts.append(task.record(torch.stack(logits), batch.labels))
        del batch, tokens
    return joined(parts, task.summed)
