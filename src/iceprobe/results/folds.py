"""Folds of one replicate → one result on all examples, each predicted by probes that weren't trained on it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.building import scores_of
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Logits, Predictions
from iceprobe.results.replicates import common_fields
from iceprobe.results.schema import Score


def joined_folds(
    results: Sequence[FittedResult], folds: Sequence[NDArray[np.int64]], of_all: Predictions
) -> FittedResult:
    """One result of one probe's folds: its metrics are of all examples' out-of-fold predictions.

    ``folds`` has the primary metric of each fold. No fitted module is kept: each has seen all examples but a
    fold's.

    Args:
        results: of each fold, with the same seeds.
        folds: rows of each, which are those of all examples.
        of_all: predictions without any, with the targets and columns of all examples.
    """
    first = results[0]
    predictions = out_of_fold([one.needed_predictions() for one in results], folds, of_all)
    return first.replaced(
        predictions=predictions,
        probes=[],
        metrics=scores_of(predictions, first.task, first.metrics),
        folds=Score.of(one.score.mean for one in results),
        identical_images=sum(one.identical_images for one in results),
        assumed=_assumed(results, len(of_all.labels)),
        train_images=len(of_all.labels),
        test_images=len(of_all.labels),
        selected_on=f"{first.selected_on}, in each of {len(results)} folds",
        **common_fields(results, "folds"),
    )


def _assumed(results: Sequence[FittedResult], examples: int) -> list[str]:
    """The assumptions that all folds share, and how many images have a twin in another fold."""
    shared = [line for line in results[0].assumed if all(line in one.assumed for one in results)]
    same = sum(one.identical_images for one in results)
    if same:
        shared.append(
            f"{same:,} of {examples:,} {examples_of(*results)} are identical to one of another fold (by their pooled "
            "tokens): what was memorised counts as read"
        )
    return list(dict.fromkeys(shared))


def out_of_fold(
    parts: Sequence[Predictions], folds: Sequence[NDArray[np.int64]], of_all: Predictions
) -> Predictions:
    """Predictions of all examples from those of each fold's.

    What a fold set on its held-out examples, such as thresholds of tags, isn't kept: these examples are judged
    in other folds.
    """
    order = np.argsort(np.concatenate(list(folds)))

    def whole(arrays: Sequence[NDArray | None]) -> NDArray | None:
        known = [array for array in arrays if array is not None]
        return np.concatenate(known, 1)[:, order] if len(known) == len(parts) else None

    logits = [part.logits() for part in parts]
    values = whole([None if one is None else one.values for one in logits])
    outputs = []
    if values is not None:
        kept = [one for one in logits if one is not None]
        classes, sums = whole([k.classes for k in kept]), whole([k.log_sum_exp for k in kept])
        outputs = [Logits(values, classes, sums)]
    return Predictions(
        of_all.labels,
        whole([part.predicted for part in parts]),
        whole([part.top5 for part in parts]),
        of_all.names,
        outputs,
        of_all.groups,
        of_all.slices,
    )
