"""k-NN on a feature store: choose (k, T), then predict the test split."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.options import takes
from iceprobe.core.specs import Spec
from iceprobe.machine.processes import world
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.neighbours.search import QUERIES, nearest
from iceprobe.neighbours.voting import Vote, settings, voted
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.inputs import Input, input_of
from iceprobe.protocols.heldout import folds_of
from iceprobe.protocols.protocol import UNSELECTED, check_splits, get_protocol
from iceprobe.results.building import built_result
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Predictions
from iceprobe.results.provenance import provenance
from iceprobe.results.schema import Flops, Parameters, SelectedScore
from iceprobe.results.undertrained import far_below
from iceprobe.results.weighted import selected_score
from iceprobe.settings import KnnCall
from iceprobe.store.examples import example_noun
from iceprobe.store.reader import metric_of
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.records import Arrays
from iceprobe.tasks.registry import pooled_task
from iceprobe.tasks.selecting import kept_for
from iceprobe.tasks.task import Task

if TYPE_CHECKING:
    from iceprobe.store import Store, StoredSplit


@shows_progress
@takes(KnnCall)
def knn(store: "Store", probe: str | Spec = "knn", *, call: KnnCall) -> FittedResult:
    """Predict the targets of a split of ``store`` from its nearest training images.

    Under ``heldout`` (k, T) is chosen on a stratified tenth of train against the rest of it (with few
    images on the folds of a cross-validation), then all of train is the bank for the reported split.
    Under ``paper`` (k, T) is chosen on the reported split itself, and the result says so. Of equals the
    smaller k, then the smaller T, is taken; if no image can be held out, the first of the grid, and the
    result says so.

    Several processes share the queries, and each reads all of the bank.

    Args:
        store: features, with a ``train`` split and the split to report.
        probe: ``knn``, or ``knn?input=class`` / ``knn?input=mean``. Without it the class token
            is read, or the mean of the patch tokens where there is none. Several vectors
            (``knn?layers=-2,-1&input=class+mean``) are concatenated as they are, the vector that a
            linear probe reads, and the whole is normalised by the cosine: a part counts by the square of
            its length.
        settings: or options as keywords; ``progress`` is called with ("knn", images done, images to do).

    Raises:
        IceprobeError: for a split or class token that isn't there, or a wrong option of ``probe``.
    """
    started = time.monotonic()
    chosen = get_protocol(call.protocol)
    spec, split = parse_probe(str(probe)), call.split
    check_splits(store.splits, split, store.manifest.dataset.spec)
    for name in ("train", split):
        store.check_targets(name)
    train, test = store["train"], store[split]
    classes = len(store.classes)
    pooled_task(store.task)
    task = pooled_task(call.task or store.task)
    leading = task.metric(metric_of(store, task, call.metric))
    labels = train.targets
    read = input_of(store.shape, spec)
    features, queries = features_of(train, read), features_of(test, read)
    search = _Search(labels, classes, call.device or "cpu", callback(call.progress))
    search.total = len(queries)
    truth = test.targets

    if chosen.held_out:
        strata, groups = task.strata(labels), store.groups("train")
        folds = folds_of(strata, call.run_seed, chosen, groups)
        search.total += sum(len(fold.held_out) for fold in folds.folds)
        neighbours = search(queries, features, np.arange(len(labels)))
        evaluated = [
            (search(features[fold.held_out], features, fold.train), fold.held_out)
            for fold in folds.folds
        ]
        known, selected_on = labels, folds.description if evaluated else UNSELECTED
    else:
        neighbours = search(queries, features, np.arange(len(labels)))
        evaluated = [(neighbours, np.arange(len(queries)))]
        known, selected_on = truth, f"the reported split ({split})"
    best, values = settings(len(labels))[0], dict[Vote, float]()
    spread: float | None = None
    held_out: SelectedScore | None = None
    if evaluated:
        rows, tried = _tried(evaluated, task, classes, known, leading)
        known = known[rows]
        values = {vote: float(leading.mean(scores, known)) for vote, scores in tried.items()}
        best = max(values, key=lambda vote: leading.sign * values[vote])
        spread = leading.sign * (values[best] - statistics.median(values.values()))
        if chosen.held_out:
            held_out = selected_score(tried[best], leading.weights(known), folds.groups_of(rows))

    record = voted(task, *neighbours, classes, torch.from_numpy(truth), best)
    predictions = replace(Predictions.of(Arrays(record), truth), **store.beside(split))
    if evaluated and chosen.held_out:
        predictions = predictions.tuned_to(_tuned(evaluated, task, classes, labels, best))
    reported = selected_score(
        leading.needed_scores(predictions.record, truth).mean(0),
        leading.weights(truth),
        predictions.groups,
    )
    return built_result(
        predictions,
        open_store=store,
        probe=probe_label(spec),
        method="knn",
        protocol=call.protocol,
        selected={"k": best.k, "temperature": best.temperature},
        selected_on=selected_on,
        selected_score=held_out,
        settings_tried=max(1, len(values)),
        best_minus_median=spread,
        parameters=Parameters(pooling=0, classifier=0, total=0),
        flops=Flops(per_image=2 * features.numel()),  # similarities to every training image
        seconds=time.monotonic() - started,
        variance="none",
        warnings=far_below(leading, reported, held_out, split, example_noun(store.manifest)),
        **provenance(store, split, call.command or "")
        | {"task": task.name, "primary": leading.name},
    )


def neighbours_of(
    bank: "StoredSplit",
    other: "StoredSplit",
    read: Input,
    k: int,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Similarities ``(n, k)`` of the examples of ``other`` to their neighbours in ``bank``, and rows of
    these ``(n, k)``, best first; for k-NN whose (k, T) is chosen already."""
    features, queries = (features_of(split, read) for split in (bank, other))
    return nearest(queries, features, k, device=device, progress=progress)


def features_of(split: "StoredSplit", read: Input) -> Tensor:
    """The vectors ``(n, D)`` of the input ``read``, their parts as they are stored one after another."""
    parts = [split.vector(name, layer) for layer, name in read.parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _Search:
    """Neighbours and their targets; all searches share one progress bar."""

    def __init__(
        self,
        labels: np.ndarray,
        classes: int,
        device: torch.device | str,
        progress: ProgressCallback | None,
    ):
        self.labels, self.classes, self.device = torch.from_numpy(labels.copy()), classes, device
        self.progress, self.done, self.total = progress, 0, 0

    def __call__(
        self, queries: Tensor, features: Tensor, bank: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Similarities ``(n, K)`` and targets ``(n, K, …)`` of the neighbours among the rows ``bank``."""

        def advance(done: int, _: int) -> None:
            if self.progress:
                self.progress("knn", self.done + done, self.total)

        rows = torch.from_numpy(bank)
        most = settings(len(bank))[-1][0]
        # Of several processes each takes whole tiles of queries: the products are the same.
        tiles = world().part(-(-len(queries) // QUERIES))
        start, stop = (min(tile * QUERIES, len(queries)) for tile in (tiles.start, tiles.stop))
        mine = slice(start, stop)
        found = nearest(queries[mine], features[rows], most, device=self.device, progress=advance)
        similarity, index = (world().assembled(part, mine, len(queries)) for part in found)
        self.done += len(queries)
        return similarity, self.labels[rows][index]


def _tuned(
    evaluated: Sequence[tuple[tuple[Tensor, Tensor], np.ndarray]],
    task: Task,
    classes: int,
    truth: np.ndarray,
    vote: Vote,
) -> dict[str, np.ndarray]:
    """What the task tunes on the held-out examples with the chosen vote, the mean over folds; arguments as of
    :func:`_tried`."""
    parts = []
    for (similarity, labels), rows in evaluated:
        of_rows = torch.from_numpy(truth[rows])
        record = voted(task, similarity, labels, classes, of_rows, vote, "scores")
        parts.append(task.tuned(record, truth[rows]))
    return {name: np.mean([part[name][0].numpy() for part in parts], 0) for name in parts[0]}


def _tried(
    evaluated: Sequence[tuple[tuple[Tensor, Tensor], np.ndarray]],
    task: Task,
    classes: int,
    truth: np.ndarray,
    metric: Metric,
) -> tuple[np.ndarray, dict[Vote, np.ndarray]]:
    """The scores of every vote of the grid, in its order, on each evaluated image.

    Args:
        evaluated: neighbours of some images, and their rows of ``truth``; an image may be
            evaluated several times.
        task: of the targets.
        classes: its outputs.
        truth: the targets, ``(n, …)``.
        metric: that selects.

    Returns:
        The rows that were evaluated, ``(m,)``, and by vote the mean of each row's scores, ``(m,)``.
    """
    everything = np.concatenate([rows for _, rows in evaluated])
    held_out, seen = np.unique(everything), np.bincount(everything, minlength=len(truth))
    most = min(similarity.shape[1] for (similarity, _), _ in evaluated)
    found = {}
    keep = kept_for(task, metric, classes, truth[held_out])
    for vote in settings(most):
        scores = np.zeros(len(truth))
        for (similarity, labels), rows in evaluated:
            of_rows = torch.from_numpy(truth[rows])
            record = voted(task, similarity, labels, classes, of_rows, vote, keep)
            scores[rows] += metric.needed_scores(Arrays(record), truth[rows])[0]
        found[vote] = scores[held_out] / seen[held_out]
    return held_out, found
