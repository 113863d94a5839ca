"""How a setting should be chosen: rules held against each other on recorded fits (docs/selection.md).

    python benchmarks/selection_study.py --output build/selection           # collects, then the tables
    python benchmarks/selection_study.py --quick --output build/quick       # a smoke run: a minute
    python benchmarks/selection_study.py --tables --output build/selection  # the tables alone

Collect once, decide offline. For a case (tokens, training images drawn from them, test images) one joint training
trains every learning rate of a wide grid. Recorded are

- on held-out images, of each fold: which are right, and their cross-entropy, per setting and epoch;
- after a refit on all training images: test accuracy, per setting and epoch.

Every rule is a function of these arrays. The regret of a choice is the test accuracy of the setting that is
best at the schedule's end (mean over draws) minus that of what the rule chose, on the same draw.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.preprocessing import StandardScaler
from study_cases import Tokens, tokens

from iceprobe.fitting.engine import JointTrainer, forward
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import Group, Member, make_groups
from iceprobe.fitting.whitening import whitening
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.probe import build_for
from iceprobe.protocols.lowshot import draw
from iceprobe.protocols.protocol import for_images, get_protocol, images_per_step, steps_an_epoch
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.stratified import heldout_split

CPU = torch.device("cpu")
#: Learning rates recorded: each kind's optimum and what lies around it (benchmarks/rates_by_kind.py).
RATES = {
    "linear?input=mean": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "ep12": (3e-4, 1e-3, 3e-3, 1e-2),
    "aim12": (1e-3, 3e-3, 1e-2, 3e-2),
    "vjepa16": (1e-4, 3e-4, 1e-3, 3e-3),
}
STRENGTHS = tuple(float(c) for c in np.logspace(-4, 1, 11))  # C of logistic regression
TRAINED = tuple(RATES)
CONVEX = "logistic regression"
FOLDS = 5
TEST = 1500  # images, at most
LOOKS = 50  # epochs looked at, at most
AVERAGED = 0.25  # of the schedule's end, for averaged weights


@dataclass(frozen=True)
class Case:
    """Training images drawn from tokens.

    ``shots`` a class are drawn, or ``images`` in all; of fewer than 1,000 images ``FOLDS`` folds are
    recorded, of more three draws of the held-out tenth.
    """

    data: str
    backbone: str
    shots: int | None = None
    images: int | None = None
    draws: int = 2
    probes: tuple[str, ...] = (*TRAINED, CONVEX)
    steps: int = 400
    repeats: int = 1  # of the folds

    @property
    def name(self) -> str:
        size = f"{self.shots} shots" if self.shots else f"{self.images} images"
        length = "" if self.steps == 400 else f", {self.steps} steps"
        return ", ".join(filter(None, (self.data, self.backbone, size))) + length

    def rows(self, labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Rows of a draw of training images."""
        if self.shots:
            names = [str(label) for label in range(labels.max() + 1)]
            return draw(labels, names, shots=self.shots, seed=seed)
        return np.sort(np.random.default_rng(seed).permutation(len(labels))[: self.images])


EP, AIM, VJEPA = "ep12", "aim12", "vjepa16"
CASES = (
    Case("clutter", "mae-tiny", shots=2, probes=(EP, AIM, VJEPA, CONVEX)),
    Case("synthetic", "", images=100, probes=(EP, AIM, CONVEX)),
    Case("clutter", "dino-tiny", shots=5, draws=1, probes=(EP, AIM, CONVEX)),
    Case("clutter", "supervised-tiny", shots=5, draws=1, probes=(EP, CONVEX)),
    Case("clutter", "mae-tiny", shots=20, draws=1, probes=(EP, AIM, CONVEX)),
    Case("digits", "dino-tiny", shots=20, draws=1, probes=(EP, CONVEX)),
    Case("synthetic", "", images=500, draws=1, probes=(EP, CONVEX)),
    Case("clutter", "dino-tiny", images=2000, draws=1, probes=(EP, CONVEX)),
    Case("fashion", "mae-tiny", images=1000, draws=1, probes=(EP, CONVEX)),
)
QUICK = (
    Case("synthetic", "", images=100, draws=1, probes=(EP, CONVEX), steps=20),
    Case("synthetic", "", images=1000, draws=1, probes=(EP, CONVEX), steps=20),
)


# Collecting ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """What joint members of one probe showed on images that they hadn't learned from.

    Attributes:
        epochs: ``(E,)`` looked at.
        right: ``(S, E, n)`` bool, a setting and epoch.
        loss: ``(S, E, n)`` float16, cross-entropy.
        average: ``(S, n)`` bool, right by the weights averaged over the schedule's end.
    """

    epochs: NDArray[np.int64]
    right: NDArray[np.bool_]
    loss: NDArray[np.float16]
    average: NDArray[np.bool_]


def collect(case: Case, root: Path) -> dict[str, NDArray]:
    """All arrays of a case, by ``probe/draw/what``."""
    data = tokens(case.data, case.backbone, root)
    found: dict[str, NDArray] = {}
    for seed in range(case.draws):
        rows = case.rows(data.train.labels, seed)
        everything = np.arange(min(TEST, len(data.test)))
        refit = fits(case, data, rows, data.test, everything, seed)
        parts = list(held_out(data.train.labels[rows], seed, case.repeats))
        held = [fits(case, data, rows[a], data.train, rows[b], seed) for a, b in parts]
        for probe, fit in refit.items():
            mine, key = [one[probe] for one in held], f"{probe}/{seed}"
            found[f"{key}/test epochs"] = fit.epochs
            found[f"{key}/test"] = fit.right.mean(-1)
            found[f"{key}/test averaged"] = fit.average.mean(-1)
            evaluations = min(len(one.epochs) for one in mine)
            found[f"{key}/epochs"] = mine[0].epochs[-evaluations:]
            found[f"{key}/right"] = np.concatenate(
                [one.right[:, -evaluations:] for one in mine], -1
            )
            found[f"{key}/loss"] = np.concatenate([one.loss[:, -evaluations:] for one in mine], -1)
            found[f"{key}/averaged"] = np.concatenate([one.average for one in mine], -1)
            found[f"{key}/fold"] = np.repeat(np.arange(len(parts)), [len(b) for _, b in parts])
            found[f"{key}/label"] = np.concatenate([data.train.labels[rows[b]] for _, b in parts])
    return found


def held_out(
    labels: NDArray[np.int64], seed: int, repeats: int
) -> Iterator[tuple[NDArray, NDArray]]:
    """Rows to learn from and rows held out: folds, or from 1,000 images on draws of a tenth."""
    if len(labels) >= 1000:
        yield from (heldout_split(labels, 10 * seed + part) for part in range(3))
        return
    folds = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    yield from splitter.split(np.zeros(len(labels)), labels)


def fits(
    case: Case, data: Tokens, rows: NDArray, of: StoredSplit, seen: NDArray, seed: int
) -> dict[str, Fit]:
    """Learn from ``rows`` of the training split; look at the rows ``seen`` of a split."""
    found: dict[str, Fit] = {}
    if CONVEX in case.probes:
        x, y = data.train.mean.double().numpy()[rows], data.train.labels[rows]
        found[CONVEX] = convex(x, y, of.mean.double().numpy()[seen], of.labels[seen])
    if trained := [probe for probe in case.probes if probe != CONVEX]:
        members = [Member(probe, rate, 0.0, seed) for probe in trained for rate in RATES[probe]]
        found |= train(members, data, rows, of, seen, case.steps, seed, LOOKS)
    return found


def train(
    members: list[Member],
    data: Tokens,
    rows: NDArray,
    of: StoredSplit,
    seen: NDArray,
    steps: int,
    seed: int,
    evaluations: int,
) -> dict[str, Fit]:
    """As a phase of `heldout` trains, with a look at every image after (some) epochs."""
    protocol = for_images(get_protocol("heldout", min_steps=steps), len(rows))
    batch, each = images_per_step(protocol, len(rows)), steps_an_epoch(protocol, len(rows))
    inputs = {build_for(data.shape, m.probe, data.num_classes).input for m in members}
    feed = Feed(data.train, rows, inputs, CPU, torch.float32)
    looked = Feed(of, seen, inputs, CPU, torch.float32)
    means = Feed(data.train, rows, {"mean"}, CPU, torch.float32)
    measured = whitening(
        lambda: (b.inputs["mean"] for b in means.in_order(batch)), protocol.whitening
    )
    coordinates = (
        {"patches": Coordinates.of(feed.sample("patches", seed))} if "patches" in inputs else {}
    )
    groups = make_groups(
        members, data.shape, data.num_classes, CPU, {"mean": measured}, coordinates
    )
    trainer = JointTrainer(
        groups, "adamw", protocol.epochs * each, round(protocol.warmup_epochs * each)
    )
    at = set(np.unique(np.linspace(protocol.epochs, 1, evaluations).round().astype(int)).tolist())
    late = [epoch for epoch in at if epoch > (1 - AVERAGED) * protocol.epochs]
    seen_so_far: list[list[tuple[NDArray, NDArray]]] = []
    average: list[dict[str, torch.Tensor]] = [{} for _ in groups]
    for epoch in range(1, protocol.epochs + 1):
        for one in feed.shuffled(batch, seed, epoch - 1):
            trainer.train_step(one)
        if epoch in at:
            seen_so_far.append(look(groups, looked))
        if epoch in late:
            for total, group in zip(average, groups, strict=True):
                for name, tensor in group.state().items():
                    total[name] = total.get(name, 0) + tensor.double() / len(late)
    with torch.no_grad():
        for total, group in zip(average, groups, strict=True):
            for name, tensor in group.state().items():
                tensor.copy_(total[name])
    averaged = look(groups, looked)
    epochs = np.array(sorted(at))
    found = {}
    for i, group in enumerate(groups):
        right, loss = (np.stack([one[i][k] for one in seen_so_far], 1) for k in (0, 1))
        found[group.members[0].probe] = Fit(epochs, right, loss, averaged[i][0])
    return found


@torch.no_grad()
def look(groups: list[Group], feed: Feed) -> list[tuple[NDArray, NDArray]]:
    """Of each group, which images are right and their cross-entropy, ``(S, n)`` both."""
    parts = []
    for one in feed.in_order(256):
        for logits in forward(groups, one, training=False):
            logits = logits.nan_to_num(nan=-1e4)
            labels = one.labels.expand(len(logits), -1)
            loss = F.cross_entropy(logits.mT, labels, reduction="none").clamp_max(1e4)
            parts.append((logits.argmax(-1) == one.labels, loss.half()))
    count = len(groups)
    return [
        tuple(torch.cat([p[k] for p in parts[i::count]], 1).numpy() for k in (0, 1))  # type: ignore[misc]
        for i in range(count)
    ]


def convex(x: NDArray, y: NDArray, seen: NDArray, labels: NDArray) -> Fit:
    """Logistic regression at its optimum, on standardised features; settings are values of C."""
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(solver="lbfgs", max_iter=5000, warm_start=True, tol=1e-4)
    right, loss = [], []
    for strength in STRENGTHS:  # from strong to weak regularisation, each from the one before
        model.set_params(C=strength).fit(scaler.transform(x), y)
        chances = model.predict_proba(scaler.transform(seen))
        place = np.searchsorted(model.classes_, labels).clip(max=len(model.classes_) - 1)
        known = model.classes_[place] == labels
        mine = np.where(known, chances[np.arange(len(labels)), place], 0)
        right.append(model.classes_[chances.argmax(1)] == labels)
        loss.append(-np.log(mine.clip(1e-30)))
    r, cross = np.stack(right)[:, None], np.stack(loss)[:, None].astype(np.float16)
    return Fit(np.array([1]), r, cross, r[:, 0])


# Rules --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a rule may look at: S settings, E epochs, n held-out images.

    Attributes:
        right, loss: ``(S, E, n)``.
        average: ``(S, n)``, right by averaged weights.
        epochs: ``(E,)``.
    """

    right: NDArray[np.float64]
    loss: NDArray[np.float64]
    average: NDArray[np.float64]
    epochs: NDArray[np.int64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        return self.right.mean(-1)

    def take(self, images: NDArray) -> "Seen":
        parts = (self.right, self.loss, self.average)
        return Seen(*(part[..., images] for part in parts), self.epochs)

    def settings(self, kept: NDArray) -> "Seen":
        return Seen(self.right[kept], self.loss[kept], self.average[kept], self.epochs)


Pick = tuple[int, float]  # setting and epoch; AVERAGE in place of an epoch
AVERAGE = -1.0
Rule = Callable[[Seen], Pick]


def best_of_all(seen: Seen) -> Pick:
    """The maximum over settings × epochs; of equals the earliest epoch, the smallest rate."""
    accuracy = seen.accuracy
    at = accuracy.argmax(1)
    s = max(range(len(at)), key=lambda s: (accuracy[s, at[s]], -at[s], -s))
    return s, float(seen.epochs[at[s]])


def last(seen: Seen) -> Pick:
    """The best at the schedule's end; of equals the smallest rate."""
    return int(seen.accuracy[:, -1].argmax()), float(seen.epochs[-1])


def clearly_earlier(errors: float) -> Rule:
    """The schedule's end, unless the best of all is better by more than ``errors`` standard errors."""

    def rule(seen: Seen) -> Pick:
        end, (s, epoch) = last(seen)[0], best_of_all(seen)
        gain = seen.right[s, np.searchsorted(seen.epochs, epoch)] - seen.right[end, -1]
        # One image more is one standard error exactly, but for rounding: no clear gain.
        clear = gain.mean() > errors * gain.std(ddof=1) / np.sqrt(len(gain)) + 1e-9
        return (s, epoch) if clear else (end, float(seen.epochs[-1]))

    return rule


def end_of_curve(seen: Seen) -> Pick:
    """The best mean over the last quarter of the schedule; all of it is run."""
    late = seen.epochs > 0.75 * seen.epochs[-1]
    return int(seen.accuracy[:, late].mean(1).argmax()), float(seen.epochs[-1])


def smoothed(seen: Seen) -> Pick:
    """The end, accuracies smoothed over neighbouring settings by 1, 2, 1."""
    end = np.pad(seen.accuracy[:, -1], 1, constant_values=np.nan)
    around = np.stack([end[:-2], end[1:-1], end[1:-1], end[2:]])
    return int(np.nanmean(around, 0).argmax()), float(seen.epochs[-1])


def middle_of_good(seen: Seen) -> Pick:
    """The end; the middle of the settings that lie within one standard error of the best."""
    right = seen.right[:, -1]
    behind = right[right.mean(-1).argmax()] - right
    error = behind.std(-1, ddof=1) / np.sqrt(right.shape[-1])
    good = np.flatnonzero(behind.mean(-1) <= error)
    return int(good[(len(good) - 1) // 2]), float(seen.epochs[-1])


def by_loss(seen: Seen) -> Pick:
    """The end, by cross-entropy."""
    return int(seen.loss[:, -1].mean(-1).argmin()), float(seen.epochs[-1])


def ties_by_loss(seen: Seen) -> Pick:
    """The end; of settings that are right equally often the one with the smallest cross-entropy."""
    accuracy, loss = seen.accuracy[:, -1], seen.loss[:, -1].mean(-1)
    return int(np.lexsort((loss, -accuracy))[0]), float(seen.epochs[-1])


def averaged(seen: Seen) -> Pick:
    """Weights averaged over the last quarter of the schedule."""
    return int(seen.average.mean(-1).argmax()), AVERAGE


RULES: dict[str, Rule] = {
    "best of rate × epoch (before)": best_of_all,
    "last epoch": last,
    "last, unless earlier by 1 SE": clearly_earlier(1),
    "last, unless earlier by 2 SE": clearly_earlier(2),
    "last quarter's mean": end_of_curve,
    "last, smoothed over rates": smoothed,
    "last, middle of those within 1 SE": middle_of_good,
    "last, by cross-entropy": by_loss,
    "last, ties by cross-entropy": ties_by_loss,
    "averaged weights": averaged,
    "no selection: the middle rate": lambda seen: (len(seen.right) // 2, float(seen.epochs[-1])),
}


# Regrets ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """One draw of training images of a case, for one probe."""

    seen: Seen
    fold: NDArray[np.int64]
    label: NDArray[np.int64]
    test: NDArray[np.float64]
    test_epochs: NDArray[np.int64]
    test_average: NDArray[np.float64]

    def tested(self, pick: Pick) -> float:
        """Test accuracy of a choice, in points.

        Between two evaluations at the test images the better one counts: in favour of early epochs,
        whose accuracy rises steeply.
        """
        s, epoch = pick
        if epoch == AVERAGE:
            return 100 * float(self.test_average[s])
        after = int(np.searchsorted(self.test_epochs, epoch))
        around = [after] if self.test_epochs[after] == epoch else [max(0, after - 1), after]
        return 100 * float(self.test[s, around].max())

    def evaluations(self, held: str) -> Iterator[Seen]:
        """What is held out: a ``tenth``, in all its draws, or all ``folds`` together."""
        if held == "folds":
            yield self.seen
            return
        for fold in np.unique(self.fold):
            mine = np.flatnonzero(self.fold == fold)
            yield from (self.seen.take(part) for part in tenths(mine, self.label))

    def settings(self, kept: NDArray) -> "Draw":
        return replace(
            self,
            seen=self.seen.settings(kept),
            test=self.test[kept],
            test_average=self.test_average[kept],
        )


def tenths(fold: NDArray, label: NDArray) -> list[NDArray]:
    """A fold, a fifth of the images, as two tenths where each class has two or more there."""
    places = [fold[label[fold] == c] for c in np.unique(label[fold])]
    if min(map(len, places)) < 2 or len(fold) >= 100:
        return [fold]
    return [np.concatenate([p[half::2] for p in places]) for half in (0, 1)]


def regrets(draws: Sequence[Draw], rule: Rule, held: str) -> NDArray[np.float64]:
    """Of every choice, in points: what the best setting at the end reads, minus what it reads."""
    best = int(np.mean([draw.test[:, -1] for draw in draws], 0).argmax())
    return np.array(
        [
            100 * draw.test[best, -1] - draw.tested(rule(seen))
            for draw in draws
            for seen in draw.evaluations(held)
        ]
    )


def load(file: Path) -> dict[str, list[Draw]]:
    """The draws of a case by probe."""
    found: dict[str, list[Draw]] = {}
    with np.load(file) as arrays:
        for key in (name.removesuffix("/right") for name in arrays if name.endswith("/right")):
            a = {what: arrays[f"{key}/{what}"] for what in ARRAYS}
            seen = Seen(
                a["right"].astype(float),
                a["loss"].astype(float),
                a["averaged"].astype(float),
                a["epochs"],
            )
            draw = Draw(
                seen, a["fold"], a["label"], a["test"], a["test epochs"], a["test averaged"]
            )
            found.setdefault(key.rpartition("/")[0], []).append(draw)
    return found


ARRAYS = (
    "right",
    "loss",
    "averaged",
    "epochs",
    "fold",
    "label",
    "test",
    "test epochs",
    "test averaged",
)


# Tables -------------------------------------------------------------------------------------------

SHOWN = ("best of rate × epoch (before)", "last epoch")
#: Rates that a kind has by default (docs/selection.md), among those that are recorded.
OWN = {"ep12": (3e-4, 1e-3, 3e-3), "aim12": (1e-3, 3e-3, 1e-2), "vjepa16": (3e-4, 1e-3, 3e-3)}
Cases = dict[str, dict[str, list[Draw]]]


def row(per_case: Sequence[NDArray]) -> dict[str, float]:
    """Mean over cases of the mean regret; deviation within cases; the worst case and choice."""
    means = [values.mean() for values in per_case]
    within = np.sqrt(np.mean([values.var() for values in per_case]))
    return {
        "mean": float(np.mean(means)),
        "sd": float(within),
        "worst case": float(max(means)),
        "worst": float(max(values.max() for values in per_case)),
    }


def by_rule(
    cases: Cases, probes: Sequence[str], own: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Rule → what is held out → mean regret and spread."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, rule in RULES.items():
        for held in ("tenth", "folds"):
            values = []
            for of in cases.values():
                for probe in set(probes) & set(of):
                    draws = [within(draw, probe) for draw in of[probe]] if own else of[probe]
                    values.append(regrets(draws, rule, held))
            if values:
                found.setdefault(name, {})[held] = row(values)
    return found


def within(draw: Draw, probe: str) -> Draw:
    return draw.settings(np.array([RATES[probe].index(rate) for rate in OWN[probe]]))


def by_case(
    cases: Cases, probes: Sequence[str], rules: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Case and probe → rule, held → mean and deviation of the regret."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, of in cases.items():
        for probe in (p for p in probes if p in of):
            for rule in rules:
                for held in ("tenth", "folds"):
                    values = regrets(of[probe], RULES[rule], held)
                    numbers = [float(values.mean()), float(values.std())]
                    found.setdefault(f"{name}: {probe}", {})[f"{rule}, {held}"] = numbers
    return found


def at_end(cases: Cases) -> dict[str, dict[str, list[float]]]:
    """Case → probe → mean test accuracy at the schedule's end by setting, in %."""
    return {
        name: {
            probe: (100 * np.mean([d.test[:, -1] for d in draws], 0)).round(1).tolist()
            for probe, draws in of.items()
        }
        for name, of in cases.items()
    }


def show(title: str, table: dict[str, dict[str, dict[str, float]]]) -> None:
    """A table as Markdown: mean regret, and the worst choice.

    Of folds no deviation: most cases have one draw of images, and so one choice.
    """
    print(f"\n{title}\n\n| rule | one tenth | worst | folds | worst |\n|---|---:|---:|---:|---:|")
    for name, of in table.items():
        tenth, folds = of["tenth"], of["folds"]
        cells = f"{tenth['mean']:.1f} ± {tenth['sd']:.1f} | {tenth['worst']:.1f}"
        print(f"| {name} | {cells} | {folds['mean']:.1f} | {folds['worst']:.1f} |")


def tables(cases: Cases) -> dict[str, object]:
    """All tables, printed as Markdown and returned."""
    attentive = [p for p in TRAINED if p != TRAINED[0]]
    found: dict[str, object] = {
        "test accuracy at the end": at_end(cases),
        "rates": RATES,
        "C": STRENGTHS,
    }
    for title, probes, own in (
        ("attentive probes, all rates", attentive, False),
        ("attentive probes, their own rates", attentive, True),
        ("logistic regression at its optimum", (CONVEX,), False),
    ):
        found[title] = table = by_rule(cases, probes, own)
        show(title, table)
    found["by case"] = each = by_case(cases, attentive, SHOWN)
    print("\n| case | probe | " + " | ".join(next(iter(each.values()))) + " |")
    for name, of in each.items():
        cells = [
            f"{mean:.1f}" + (f" ± {sd:.1f}" if "tenth" in key else "")
            for key, (mean, sd) in of.items()
        ]
        print(f"| {name.replace(': ', ' | ')} | {' | '.join(cells)} |")
    print("\nTest accuracy at the schedule's end by setting, in %")
    for name, accuracies in at_end(cases).items():
        print(name, accuracies)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/selection"))
    parser.add_argument("--features", type=Path, default=Path("features"))
    parser.add_argument("--quick", action="store_true", help="two synthetic cases")
    parser.add_argument("--tables", action="store_true", help="of what was collected before")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    every = QUICK if options.quick else CASES
    cases: Cases = {}
    for case in every:
        file = options.output / f"{case.name.replace(', ', '-').replace(' ', '-')}.npz"
        if not file.exists() and not options.tables:
            began = time.process_time()
            found = collect(case, options.features)
            np.savez_compressed(file, **found)
            print(f"{case.name}: {time.process_time() - began:.0f} s", flush=True)
        if file.exists():
            cases[case.name] = load(file)
    numbers = tables(cases)
    (options.output / "selection.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
