"""The two protocols as sequences of phases, and how each chooses what it reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.halving import RULE, rungs
from iceprobe.fitting.heldout import heldout_split
from iceprobe.fitting.laying_out import lay_out
from iceprobe.fitting.members import Group, Member
from iceprobe.fitting.phases import Best, Phase, Saved, Setting, describe, recall, run_phase
from iceprobe.fitting.protocols import UNSELECTED, Protocol, images_per_step
from iceprobe.fitting.step_memory import check_memory, step_memory
from iceprobe.probes.probe import Probe
from iceprobe.results.curves import CurveRow, seed_means
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged, EarlyStopping, Score, Stopped
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit


@dataclass(frozen=True)
class Fitted:
    """One probe after its protocol.

    Attributes:
        label: its canonical spec string.
        seeds: those that were fitted to the end.
        probes: fitted modules, one a seed.
        predictions: on the reported split, one row a seed.
        selected: learning rate, weight decay and epoch.
        selected_on: what they were chosen on.
        settings_tried: combinations of learning rate and weight decay.
        best_minus_median: how far the best setting lies above the median one where it was chosen.
        last_epoch: top-1 at the last epoch, where another was chosen.
        seconds: this probe's share of the fit's wall time, by its members' multiply–adds.
        early_stopping: which settings stopped early, if some might.
    """

    label: str
    seeds: list[int]
    probes: list[Probe]
    predictions: Predictions
    selected: dict[str, float | int | str]
    selected_on: str
    settings_tried: int
    best_minus_median: float | None
    last_epoch: Score | None
    seconds: float
    early_stopping: EarlyStopping | None = None


@dataclass(frozen=True)
class Choice:
    """A point of the grid and how it stood among the others."""

    learning_rate: float
    weight_decay: float
    epoch: int
    tried: int
    best_minus_median: float | None


def run_protocol(
    store: Store,
    labels: Sequence[str],
    setting: Setting,
    *,
    seeds: Sequence[int],
    split: str,
    memory: int | None,
    shuffle: str,
    saved: Saved | None,
) -> tuple[list[Fitted], list[CurveRow], dict[str, list[Diverged]]]:
    """Fit the probes called ``labels`` and read the reported split as the protocol allows.

    Returns:
        The probes of which a member got to the end, a row a member and epoch, and by probe the
        members that have diverged.
    """
    inputs = {setting.shape.build(label).input for label in labels}
    protocol, images = setting.protocol, len(store["train"])
    grid = [
        Member(label, peak_rate(protocol, rate, images), decay, seed)
        for label in labels
        for rate in protocol.learning_rates
        for decay in protocol.weight_decays
        for seed in seeds
    ]
    stored = store["train"].patch_bytes // images
    counts = dict.fromkeys(labels, len(grid) // len(labels))
    step = step_memory(counts, setting, store.num_tokens, store.num_prefix, images, stored)
    check_memory(step, len(grid), setting.device)
    train, test, setting.shuffle = lay_out(
        store["train"],
        store[split],
        inputs,
        memory,
        shuffle,
        batch_size=images_per_step(protocol, images),
        beside=step.least,
        looks=protocol.held_out == 0,
        before=saved.shuffle if saved is not None else None,
    )

    def feed(of: StoredSplit, rows: np.ndarray, views: StoredSplit | None = None) -> Feed:
        return Feed(of, rows, inputs, setting.device, setting.amp, setting.shuffle, views)

    everything = np.arange(len(train))
    reported = feed(test, np.arange(len(test)))
    share = _shares(setting, labels, store.num_tokens)
    if protocol.held_out == 0:
        phase = Phase("paper", grid)
        learnt = feed(train, everything, train.views)
        run_phase(phase, setting, learnt, reported, keep_best=True, saved=saved)
        best = [
            _best_epoch(phase, group, best, setting, reported, share)
            for group, best in zip(phase.groups, phase.best, strict=True)
        ]
        return best, phase.rows, _diverged(labels, [phase])

    fit_rows, held_rows = heldout_split(train.labels, setting.run_seed, protocol.held_out)
    if not len(held_rows):
        select = Phase("select", [])
        choices = dict.fromkeys(labels, middle(protocol))
    elif saved is not None and saved.before:
        select = recall(saved.before[0], grid)
    else:
        select = Phase("select", grid)
        run_phase(
            select,
            setting,
            feed(train, fit_rows, train.views),
            feed(train, held_rows),
            rungs=rungs(protocol.epochs) if protocol.halving else (),
            saved=saved,
        )
    if len(held_rows):
        made = {label: choose([r for r in select.rows if r.probe == label]) for label in labels}
        choices = {label: choice for label, choice in made.items() if choice is not None}
    refit = Phase(
        "refit",
        [
            Member(label, choice.learning_rate, choice.weight_decay, seed)
            for label, choice in choices.items()
            for seed in seeds
        ],
        stops={label: choice.epoch for label, choice in choices.items()},
    )
    learnt = feed(train, everything, train.views)
    run_phase(refit, setting, learnt, None, before=[describe(select)], saved=saved)
    diverged = _diverged(labels, [select, refit])
    if not refit.groups:
        return [], select.rows + refit.rows, diverged
    tops = predict_all(
        refit.groups,
        reported,
        images_per_step(protocol, len(train)),
        min(5, setting.shape.num_classes),
    )
    fitted = []
    for group, top in zip(refit.groups, tops, strict=True):
        label = group.members[0].probe
        choice = choices[label]
        fitted.append(
            Fitted(
                label,
                [member.seed for member in group.members],
                [group.probe(g) for g in range(len(group))],
                _predictions(top.numpy(), reported, setting.shape.num_classes),
                {
                    "learning_rate": choice.learning_rate,
                    "weight_decay": choice.weight_decay,
                    "epoch": choice.epoch,
                },
                protocol.selected_on if len(held_rows) else UNSELECTED,
                choice.tried,
                choice.best_minus_median,
                None,
                share[label] * (select.seconds + refit.seconds),
                _early_stopping(label, select, protocol) if len(held_rows) else None,
            )
        )
    return fitted, select.rows + refit.rows, diverged


def _diverged(labels: Sequence[str], phases: Iterable[Phase]) -> dict[str, list[Diverged]]:
    """By probe, the members that were dropped because they were no longer finite."""
    found: dict[str, list[Diverged]] = {label: [] for label in labels}
    for phase in phases:
        for one in phase.dropped:
            if one.why == "diverged":
                m = one.member
                found[m.probe].append(
                    Diverged(
                        learning_rate=m.learning_rate,
                        weight_decay=m.weight_decay,
                        seed=m.seed,
                        phase=phase.name,
                        epoch=one.epoch,
                    )
                )
    return found


def _early_stopping(label: str, select: Phase, protocol: Protocol) -> EarlyStopping | None:
    """The rule under which settings of a probe stopped, and those that did."""
    if not protocol.halving:
        return None
    stopped: dict[tuple[float, float, int], list[int]] = {}
    for one in select.dropped:
        if one.member.probe == label and one.why == "beaten":
            point = (one.member.learning_rate, one.member.weight_decay, one.epoch)
            stopped.setdefault(point, []).append(one.member.seed)
    return EarlyStopping(
        rule=RULE,
        rungs=rungs(protocol.epochs),
        stopped=[
            Stopped(learning_rate=rate, weight_decay=decay, seeds=seeds, epoch=epoch)
            for (rate, decay, epoch), seeds in stopped.items()
        ],
    )


def choose(rows: Sequence[CurveRow]) -> Choice | None:
    """The setting and epoch with the best held-out accuracy, mean over seeds.

    Of equals the earliest epoch, then the smallest learning rate and weight decay. A setting of
    which a seed has diverged is chosen only where that befell all of them, and none where no
    member is left.
    """
    seeds: dict[tuple[float, float], set[int]] = {}
    lost: dict[tuple[float, float], set[int]] = {}
    for row in rows:
        point = (row.learning_rate, row.weight_decay)
        seeds.setdefault(point, set()).add(row.seed)
        lost.setdefault(point, set()).update({row.seed} if row.diverged else ())
    best: dict[tuple[float, float], tuple[float, int]] = {}
    for point, means in seed_means(rows).items():
        epoch = max(means, key=lambda e: (means[e], -e))
        best[point] = (means[epoch], epoch)
    left = [point for point in best if lost[point] < seeds[point]]
    eligible = [point for point in left if not lost[point]] or left
    if not eligible:
        return None
    rate, decay = max(eligible, key=lambda s: (best[s][0], -best[s][1], -s[0], -s[1]))
    accuracy, epoch = best[rate, decay]
    spread = accuracy - float(np.median([a for a, _ in best.values()]))
    return Choice(rate, decay, epoch, len(best), spread)


def middle(protocol: Protocol) -> Choice:
    """The middle of the grid and the last epoch, where no image can be held out to choose by."""
    rates, decays = sorted(protocol.learning_rates), sorted(protocol.weight_decays)
    rate, decay = rates[len(rates) // 2], decays[len(decays) // 2]
    return Choice(rate, decay, protocol.epochs, tried=1, best_minus_median=None)


def peak_rate(protocol: Protocol, rate: float, num_images: int) -> float:
    """Peak learning rate: of LARS's grid, per 256 images and so scaled by the images per step."""
    if protocol.optimizer == "lars":
        return rate * images_per_step(protocol, num_images) / 256
    return rate


def _best_epoch(
    phase: Phase,
    group: Group,
    best: Best,
    setting: Setting,
    reported: Feed,
    share: dict[str, float],
) -> Fitted:
    """`paper`: each seed at its best epoch on the reported split, the last epoch beside it.

    As in :func:`choose`, a setting whose seeds are all there goes before one that has lost some.
    """
    label = group.members[0].probe
    rows = [row for row in phase.rows if row.probe == label]
    peaks: dict[tuple[float, float], dict[int, float]] = {}
    for row in rows:
        seeds = peaks.setdefault((row.learning_rate, row.weight_decay), {})
        seeds[row.seed] = max(seeds.get(row.seed, 0.0), row.eval_accuracy or 0.0)
    means = {point: float(np.mean(list(seeds.values()))) for point, seeds in peaks.items()}
    by_setting: dict[tuple[float, float], list[int]] = {}
    for g, member in enumerate(group.members):
        by_setting.setdefault((member.learning_rate, member.weight_decay), []).append(g)
    chosen = max(by_setting, key=lambda point: (len(by_setting[point]), means[point]))
    mine = by_setting[chosen]
    kept = [group.members[g].seed for g in mine]
    last = {
        row.seed: row.eval_accuracy or 0.0
        for row in rows
        if row.epoch == phase.epoch and (row.learning_rate, row.weight_decay) == chosen
    }
    epochs = [int(best.epoch[g]) for g in mine]
    return Fitted(
        label,
        kept,
        [best.probes[g] for g in mine],
        _predictions(best.top[mine].numpy(), reported, setting.shape.num_classes),
        {
            "learning_rate": chosen[0],
            "weight_decay": chosen[1],
            "epoch": epochs[0] if len(set(epochs)) == 1 else ", ".join(map(str, epochs)),
        },
        setting.protocol.selected_on,
        len(means),
        means[chosen] - float(np.median(list(means.values()))),
        Score.of(last[seed] for seed in kept),
        share[label] * phase.seconds,
    )


def _predictions(top: np.ndarray, reported: Feed, num_classes: int) -> Predictions:
    """From the best classes ``(S, n, top)`` of every image, best first."""
    labels = reported.labels.cpu().numpy()
    top5 = (top == labels[None, :, None]).any(-1) if num_classes > 5 else None
    return Predictions(labels, top[..., 0], top5)


def _shares(setting: Setting, labels: Sequence[str], num_tokens: int) -> dict[str, float]:
    """Fraction of the fit's multiply–adds that is each probe's."""
    flops = {label: setting.shape.build(label).flops(num_tokens) for label in labels}
    return {label: value / sum(flops.values()) for label, value in flops.items()}
