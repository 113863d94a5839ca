"""One phase of a fit: its members and their state."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.results.curves import CurveRow
from iceprobe.tasks.records import Record, of_members


@dataclass
class Best:
    """Each member's best epoch on the reported split (`paper`)."""

    score: NDArray[np.float64]  # `(G,)`, multiplied by the metric's sign
    epoch: NDArray[np.int64]  # `(G,)`
    record: Record  # the task's record of its predictions
    probes: list[nn.Module]  # copies of the members after that epoch

    def keep(self, kept: Sequence[int]) -> "Best":
        """Of the members numbered ``kept`` only."""
        index, probes = list(kept), [self.probes[g] for g in kept]
        return Best(self.score[index], self.epoch[index], of_members(self.record, index), probes)


@dataclass(frozen=True)
class Dropped:
    """A member whose training ended with ``epoch``."""

    member: Member
    epoch: int
    why: str  # "diverged" or "beaten"


@dataclass
class Phase:
    """One phase and its state so far; all of it goes into the checkpoint."""

    # unique in a fit: "select", "select 2/5", "refit"; rows have its first word
    name: str
    members: list[Member]  # to train
    fold: int = 0  # number of the fold that it selects on, from 0
    # probe → epoch at which its members stop; the schedule keeps its full horizon
    stops: dict[str, int] = field(default_factory=dict)
    epoch: int = 0  # epochs that are finished
    rows: list[CurveRow] = field(default_factory=list)  # one a member and epoch
    seconds: float = 0.0  # of training and evaluation, over all sessions
    # members that ended before their stop; groups hold the others
    dropped: list[Dropped] = field(default_factory=list)
    # of the members that go on; a probe with none has no group
    groups: list[Stacked] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)  # of each group, where it is kept
    # what the task tunes on the evaluated examples after the last evaluation, `(members, …)` each
    tuned: dict[str, NDArray[Any]] = field(default_factory=dict)
    # epochs after which it is evaluated; after every one if `None`
    evaluations: list[int] | None = None
    # of each held-out example, by evaluation and member: `(E, G, ⌈n/8⌉)` packed bits of a boolean
    # score, `(E, G, n)` float32 of any other, zeros after a member was dropped; `None` where
    # nothing is kept
    scores: NDArray[Any] | None = None

    @property
    def stage(self) -> str:
        """``"select"``, ``"refit"`` or ``"paper"``."""
        return self.name.split()[0]

    def keep_tuned(self, members: Sequence[Member], found: Record) -> None:
        """Keep what was tuned for some of its members, ``(G, …)`` by name."""
        numbers = {member: g for g, member in enumerate(self.members)}
        for name, tensor in found.items():
            empty = np.full((len(self.members), *tensor.shape[1:]), np.nan)
            kept = self.tuned.setdefault(name, empty)
            kept[[numbers[member] for member in members]] = tensor.numpy()

    @property
    def going(self) -> list[Member]:
        """The members that weren't dropped."""
        gone = {dropped.member for dropped in self.dropped}
        return [member for member in self.members if member not in gone]

    def row(self, member: Member, loss: float, score: float | None) -> CurveRow:
        """The row of a member in the epoch that just ended."""
        return CurveRow(
            **asdict(member),
            phase=self.stage,
            fold=self.fold,
            epoch=self.epoch,
            train_loss=loss,
            eval_accuracy=score,
        )

    def keep_scores(self, number: int, member: int, scores: NDArray[Any], evaluations: int) -> None:
        """Keep a member's scores of the held-out examples, ``(n,)``, after an evaluation."""
        kept = np.packbits(scores) if scores.dtype == np.bool_ else scores.astype(np.float32)
        if self.scores is None:
            self.scores = np.zeros((evaluations, len(self.members), len(kept)), kept.dtype)
        self.scores[number, member] = kept

    def scores_of(self, member: int, count: int) -> NDArray[Any]:
        """A member's scores of ``count`` examples after each evaluation, ``(E, n)``."""
        if self.scores is None:  # no member reached an evaluation
            return np.zeros((len(self.evaluations or []), count), np.uint8)
        kept = self.scores[:, member]
        return np.unpackbits(kept, axis=-1, count=count) if kept.dtype == np.uint8 else kept


def tuned_at(
    phases: Sequence[Phase], label: str, setting: tuple[float, float]
) -> dict[str, NDArray[Any]]:
    """What was tuned for a probe at a setting, by name: the mean over its members in all phases."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for phase in phases:
        for number, member in enumerate(phase.members):
            if (member.probe, member.setting) == (label, setting):
                for name, values in phase.tuned.items():
                    parts.setdefault(name, []).append(values[number])
    means = {name: mean_of_known(values) for name, values in parts.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def mean_of_known(values: Sequence[NDArray[Any]]) -> NDArray[np.float64] | None:
    """The mean of those arrays that have no NaN; None without one."""
    known = [one for one in values if np.isfinite(one).all()]
    return np.mean(known, 0) if known else None


def describe(phase: Phase) -> dict[str, Any]:
    """A phase as JSON, without its tensors."""
    return {
        "name": phase.name,
        "epoch": phase.epoch,
        "seconds": phase.seconds,
        "rows": [row.model_dump() for row in phase.rows],
        "dropped": [asdict(dropped) for dropped in phase.dropped],
        "best": [{"score": b.score.tolist(), "epoch": b.epoch.tolist()} for b in phase.best],
    }


def remember(
    phase: Phase, description: dict[str, Any], tensors: Mapping[str, Tensor], number: int
) -> None:
    """Restore into ``phase``, the fit's number ``number``, what :func:`describe` gave."""
    phase.epoch, phase.seconds = description["epoch"], description["seconds"]
    phase.rows = [CurveRow.model_validate(row) for row in description["rows"]]
    phase.dropped = [
        Dropped(Member(**one["member"]), one["epoch"], one["why"]) for one in description["dropped"]
    ]
    scores = tensors.get(f"scores.{number}")
    phase.scores = None if scores is None else scores.numpy().copy()
    tuned = _below(tensors, f"tuned.{number}.")
    phase.tuned = {name: tensor.numpy().copy() for name, tensor in tuned.items()}


def best_state(phase: Phase) -> dict[str, Tensor]:
    """The tensors of the best epochs, by name."""
    state: dict[str, Tensor] = {}
    for i, best in enumerate(phase.best):
        state |= {f"best.{i}.record.{name}": t for name, t in best.record.items()}
        for g, probe in enumerate(best.probes):
            state |= {f"best.{i}.probe.{g}.{name}": t for name, t in probe.state_dict().items()}
    return state


def saved_best(
    groups: Sequence[Stacked], described: Sequence[dict[str, Any]], tensors: Mapping[str, Tensor]
) -> list[Best]:
    """The best epochs of each group; ``described`` is empty where none are kept."""
    found = []
    for i, (group, numbers) in enumerate(zip(groups, described, strict=False)):
        probes = group.probes()
        for g, probe in enumerate(probes):
            probe.load_state_dict(_below(tensors, f"best.{i}.probe.{g}."))
        record = {n: t.clone() for n, t in _below(tensors, f"best.{i}.record.").items()}
        found.append(Best(np.array(numbers["score"]), np.array(numbers["epoch"]), record, probes))
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def scores_state(phases: Sequence[Phase]) -> dict[str, Tensor]:
    """The members' scores in each phase, and what was tuned for them, by name."""
    scores = {
        f"scores.{i}": torch.from_numpy(phase.scores)
        for i, phase in enumerate(phases)
        if phase.scores is not None
    }
    return scores | {
        f"tuned.{i}.{name}": torch.from_numpy(values)
        for i, phase in enumerate(phases)
        for name, values in phase.tuned.items()
    }
