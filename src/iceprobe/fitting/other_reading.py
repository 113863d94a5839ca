"""The fitted probes of a run on the tokens of another data set: predictions, then results."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.matching import Matching
from iceprobe.datasets.shared_groups import line_of_shared_groups
from iceprobe.fitting.checks import check_device, check_patches
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.fitted import load_fitted
from iceprobe.fitting.fitted_probe import logits_of
from iceprobe.fitting.fitted_run import FittedRun
from iceprobe.fitting.other_votes import votes_of
from iceprobe.machine.progress import ProgressCallback
from iceprobe.probes.probe import Probe
from iceprobe.results.building import scores_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Predictions
from iceprobe.results.provenance import line_of_identical, origin, reference_of
from iceprobe.results.schema import Files, FittedOn
from iceprobe.settings import OtherSetCall
from iceprobe.store.examples import example_noun
from iceprobe.store.identical import identical_rows
from iceprobe.store.layout import DTYPES
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Arrays, Record, joined
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.targets import some

IMAGES = 256  # in a batch


class Reading:
    """The probes of a run on the tokens of another set."""

    def __init__(self, fit: FittedRun, store: Store, call: OtherSetCall, name: str):
        self.fit, self.store, self.name = fit, store, name
        self.split_name = call.split
        self.split: StoredSplit = store[call.split]
        if not len(self.split):
            raise IceprobeError(
                f"split {call.split!r} has no {example_noun(store.manifest)} that could be read"
            )
        self.device = check_device(call.device)
        self.command = call.command if call.command is not None else shlex.join(sys.argv)
        self.trained = [one for one in fit.results if one.method == "trained"]

    def predicted(
        self, matchings: Sequence[Matching], progress: ProgressCallback | None
    ) -> list[dict[str, Predictions]]:
        """By matching, each probe's predictions."""
        advance = progress or (lambda stage, done, of: None)
        task = self.fit.task
        targets = [task.placed(self.split.targets, m.targets, len(m.names)) for m in matchings]
        records = self._records(matchings, targets, advance)
        for one in self.fit.results:
            if one.method == "knn":
                assert self.fit.store is not None
                records[one.label] = votes_of(
                    one, self.fit.store, self.split, self.fit.run_seed,
                    list(zip(matchings, targets, strict=True)), self.device, advance,
                )  # fmt: skip
        columns: dict[str, Any] = {
            "names": self.store.names_at_hand(self.split_name),
            "groups": self.store.groups(self.split_name),
            "slices": self.store.slices(self.split_name),
        }
        return [
            {
                one.label: replace(
                    Predictions.of(Arrays(records[one.label][number]), of_matching),
                    **columns,
                    **_tuned(one),
                )
                for one in self.fit.results
            }
            for number, of_matching in enumerate(targets)
        ]

    def _records(
        self,
        matchings: Sequence[Matching],
        targets: Sequence[NDArray[Any]],
        advance: Callable[[str, int, int], None],
    ) -> dict[str, list[Record]]:
        """Of the trained probes, by label and matching: one pass over the tokens."""
        modules = {one.label: self._modules(one) for one in self.trained}
        if not modules:
            return {}
        task, done = self.fit.task, 0
        inputs = {probes[0].input for probes in modules.values()}
        for label, probes in modules.items():
            check_patches(label, probes[0], self.store)
        narrow = {str(one.training.get("dtype", "float32")) for one in self.trained} - {"float32"}
        dtype = DTYPES[min(narrow)] if narrow else torch.float32  # one fit has one
        feed = Feed(self.split, np.arange(len(self.split)), inputs, self.device, dtype)
        parts: dict[str, list[list[Record]]] = {label: [[] for _ in matchings] for label in modules}
        placed = [torch.from_numpy(one).to(self.device) for one in targets]
        for batch in feed.in_order(IMAGES):
            rows = slice(done, done + len(batch.labels))
            for label, probes in modules.items():
                logits = logits_of(probes, batch.pieces(probes[0].input))
                for number, matching in enumerate(matchings):
                    record = task.record(read_logits(logits, matching), placed[number][rows])
                    parts[label][number].append(record)
            done = rows.stop
            advance(f"test {self.name}", done, len(self.split))
            del batch
        return {
            label: [joined(part, task.summed) for part in of_label]
            for label, of_label in parts.items()
        }

    def _modules(self, result: FittedResult) -> list[Probe]:
        seeds: Sequence[int | None] = result.seeds or [None]
        return [load_fitted(result, self.store.shape, one).to(self.device) for one in seeds]

    def lines(self) -> list[str]:
        """What is assumed about the two sets together, a line each."""
        found = []
        if self.fit.manifest is None:
            found.append(
                f"the run's feature store isn't there ({self.fit.gone}): that its backbone is still what it "
                "was, and which examples are training examples too, isn't checked"
            )
        if self.fit.predicts.given_alike(self.store):
            found.append(
                f"tokens of {self.store.manifest.dataset.name} are taken to be of the run's own encoder, which "
                "is known by its name alone"
            )
        if self.rows:
            names = self.store.names_at_hand(self.split_name)
            noun = example_noun(self.store.manifest)
            found.append(
                line_of_identical(self.rows, len(self.split), self.split_name, names, noun)
            )
        return [*found, *self._other_groups(), *self._shared_groups()]

    @cached_property
    def rows(self) -> list[int]:
        """Rows whose image is a training image of the run."""
        if self.fit.store is None:
            return []
        return list(identical_rows(self.fit.store["train"], self.split).tolist())

    def _other_groups(self) -> list[str]:
        """A line on a set whose examples aren't in the groups of the run's column."""
        ours, record = self.fit.group, self.store.manifest.dataset
        if ours in (None, record.group):
            return []
        whose = f"those of {record.name} are of column {record.group!r}"
        if record.group is None:
            whose = f"{record.name} is read without it: each of its examples counts as independent"
        return [f"the run's groups are of column {ours!r}, and {whose}"]

    def _shared_groups(self) -> list[str]:
        """A line on groups that are in the run's training split and in the other set."""
        ours, theirs = self.fit.store, self.store
        if ours is None:
            return []
        name, record = ours.manifest.dataset.group, theirs.manifest.dataset
        if name is None or name != record.group:
            return []
        known, values = ours.manifest.dataset.values[name], record.values[name]
        trained = {known[code] for code in np.unique(ours["train"].columns[name]) if code >= 0}
        codes = self.split.columns[name]
        both = [code for code in np.unique(codes).tolist() if code >= 0 and values[code] in trained]
        if not both:
            return []
        so = (
            f"{np.isin(codes, both).sum():,} of {len(codes):,} examples aren't independent of train"
        )
        places = f"the run's train and in {self.split_name} of {record.spec}"
        return [line_of_shared_groups(name, [values[code] for code in both], places, so)]

    def results(
        self,
        matching: Matching,
        predicted: Mapping[str, Predictions],
        lines: Sequence[str],
        *,
        masked: bool,
    ) -> list[FittedResult]:
        """The run's results, with the scores on the other set."""
        manifest = self.store.manifest
        first = self.fit.results[0]
        where = origin(
            manifest, self.split_name, first.train_images or 0, self.split.index, self.command
        )
        read = (
            "dataset",
            "example",
            "images",
            "split",
            "group",
            "test_images",
            "environment",
            "git_commit",
        )
        fields = {name: where[name] for name in (*read, "command", "created", "skipped_images")} | {
            "classes": len(matching.names),
            "class_names": matching.names,
            "store": reference_of(self.store),
            "assumed": [*where["assumed"], *self._said(matching, masked), *lines],
            "identical_images": len(self.rows),
            "last_epoch": None,
            "files": Files(),
            "masked": masked,
        }
        return [self._result(one, predicted[one.label], fields) for one in self.fit.results]

    def _result(
        self, one: FittedResult, predicted: Predictions, fields: Mapping[str, Any]
    ) -> FittedResult:
        metrics = scores_of(predicted, one.task, one.metrics)
        usual = get_task(one.task).primary
        primary = next(name for name in (one.primary, usual, *metrics) if name in metrics)
        on = FittedOn(
            name=self.name,
            dataset=one.dataset,
            split=one.split,
            store=one.store,
            created=one.created,
        )
        return one.replaced(
            predictions=predicted,
            open_store=self.store,
            metrics=metrics,
            primary=primary,
            test_of=on,
            **fields,
        )

    def _said(self, matching: Matching, masked: bool) -> list[str]:
        """How outputs that the other set lacks were read."""
        task, total = self.fit.task, len(self.fit.classes)
        name = self.store.manifest.dataset.name
        if masked:
            return [
                f"only the logits of the {len(matching.names):,} {task.outputs} of {name} count"
            ]
        if not matching.without:
            return []
        if task.exclusive:
            return [
                f"the run predicts {total:,} {task.outputs}, also those that {name} lacks: a prediction of "
                "one of them is wrong"
            ]
        places = np.setdiff1d(np.arange(len(matching.names)), matching.targets)
        lacked = some([matching.names[place] for place in places])
        return [f"{name} lacks the {task.outputs} {lacked} of the run: they count nowhere"]


def _tuned(result: FittedResult) -> dict[str, Any]:
    """What the run itself set on held-out examples, such as thresholds of tags."""
    kept = result.predictions()
    return {} if kept is None else {"tuned": kept.tuned}


def read_logits(logits: Tensor, matching: Matching) -> Tensor:
    """Logits ``(…, K)`` of a run as those of the outputs that are read, ``(…, K')``; of a group the maximum."""
    if matching.whole:
        return logits
    kept = torch.from_numpy(np.flatnonzero(matching.outputs >= 0)).to(logits.device)
    place = torch.from_numpy(matching.outputs).to(logits.device)[kept]
    read = logits.new_full((*logits.shape[:-1], len(matching.names)), -torch.inf)
    taken = logits[..., kept]
    return read.scatter_reduce(-1, place.expand_as(taken), taken, "amax")
