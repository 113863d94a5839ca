"""The joint trainer: every member of every group trains on the same batch in the same pass.

    batch ─▶ queries of all members side by side ─▶ one attend() ─▶ each group's values ─▶
             batch norm, classifiers ─▶ sum of all members' losses ─▶ one backward ─▶ optimiser

Members are independent: in a sum of losses each parameter's gradient is that of its own member's
loss, and a row of the shared products belongs to one query. So a member trained among others ends with
the same weights as a member trained alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.members import Group
from iceprobe.fitting.optimisers import build_optimizer, hand_over, warmup_cosine
from iceprobe.fitting.patch_group import PatchGroup
from iceprobe.fitting.pieces import Pieces
from iceprobe.fitting.stacked import Stacked
from iceprobe.machine.processes import world
from iceprobe.machine.shared_batches import learning_from, sum_gradients
from iceprobe.probes.attend import attend_together, image_sums, log_attention
from iceprobe.probes.inputs import is_vector
from iceprobe.probes.layer_norm import token_rstd
from iceprobe.probes.pooling import QueryPooling, TokenStats
from iceprobe.tasks.classification import Classification
from iceprobe.tasks.records import Record, gathered, joined
from iceprobe.tasks.task import Keep, Task


class JointTrainer:
    """Trains groups of members together.

    Args:
        groups: to train.
        optimizer: ``"adamw"`` or ``"lars"``.
        steps, warmup: horizon and warm-up of the schedule, in steps.
        stops: step after which each group stops, at most ``steps``.
        task: whose loss is minimised; classification by default.
    """

    def __init__(
        self,
        groups: Sequence[Stacked],
        optimizer: str,
        steps: int,
        warmup: int,
        stops: list[int] | None = None,
        task: Task | None = None,
    ):
        self.groups, self.steps, self.warmup = list(groups), steps, warmup
        self.task = task or Classification()
        self.stops = stops or [steps] * len(groups)
        self.step = 0
        self._name = optimizer
        self.optimizer = self._build_optimizer()

    def _build_optimizer(self) -> Optimizer:
        alike: dict[tuple[float, float], list[Tensor]] = {}  # one fused step for each
        for group in self.groups:
            for member, view in zip(group.members, group.views, strict=True):
                alike.setdefault(member.setting, []).extend(view.values())
        optimizer = build_optimizer(
            self._name,
            [
                {"params": parameters, "lr": rate, "weight_decay": decay}
                for (rate, decay), parameters in alike.items()
            ],
        )
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def keep(self, kept: Sequence[Sequence[int]]) -> None:
        """Go on with the members numbered ``kept`` of each group, without the groups that keep none.

        The others train as if no member had left.
        """
        going = [one for one in zip(self.groups, self.stops, kept, strict=True) if one[2]]
        heirs: list[tuple[Tensor, Tensor]] = []
        for group, _, mine in going:
            before = [group.views[g] for g in mine]
            if len(mine) < len(group):
                group.keep(mine)
            for old, new in zip(before, group.views, strict=True):
                heirs += zip(old.values(), new.values(), strict=True)
        self.groups, self.stops = [group for group, _, _ in going], [stop for _, stop, _ in going]
        if going:
            earlier, self.optimizer = self.optimizer, self._build_optimizer()
            hand_over(earlier, self.optimizer, heirs)

    @property
    def active(self) -> list[Stacked]:
        """The groups that haven't stopped."""
        pairs = zip(self.groups, self.stops, strict=True)
        return [group for group, stop in pairs if self.step < stop]

    def train_step(self, batch: Batch) -> list[Tensor]:
        """One step of every active group; the losses of its members, ``(G,)`` a group.

        If several processes share a batch, the step and the losses are of the whole batch.
        """
        active = self.active
        found: dict[int, Tensor] = {}
        with learning_from(len(batch.labels), batch.images):
            for groups, losses in loss_parts(active, batch, self.task):
                torch.stack([loss.sum() for loss in losses]).sum().backward()
                for group, loss in zip(groups, losses, strict=True):
                    before = found.get(id(group))
                    found[id(group)] = loss.detach() if before is None else before + loss.detach()
        losses = [found[id(group)] for group in active]
        if batch.images > len(batch.labels):  # shared
            leaves = [leaf for group in active for leaf in group.parameters.values()]
            losses = sum_gradients(leaves, losses)
        for group in active:
            group.hand_gradients()
        factor = warmup_cosine(self.step, self.steps, self.warmup)
        for param_group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            param_group["lr"] = peak * factor
        self.optimizer.step()
        for group in active:
            group.forget_gradients()
        self.step += 1
        return losses

    def state(self) -> dict[str, Tensor]:
        """All tensors that training changes, by name, for the checkpoint."""
        state = {"step": torch.tensor(self.step)}
        for i, group in enumerate(self.groups):
            state |= {f"group.{i}.{name}": t for name, t in group.state().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{name}": torch.as_tensor(v) for name, v in values.items()}
        return state

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"])
        for i, group in enumerate(self.groups):
            for name, tensor in group.state().items():
                tensor.copy_(state[f"group.{i}.{name}"])
        restored = self.optimizer.state_dict()
        for key, tensor in state.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                restored["state"].setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict(restored)


def forward(groups: list[Group], batch: Batch, training: bool = True) -> list[Tensor]:
    """Logits ``(G, B, K)`` of every group from one read of the batch.

    Groups whose scores are linear in the tokens put their queries side by side: one product
    scores all of them, one pools all of them (one each for every ε of a LayerNorm that some
    read the tokens through). Narrow tokens (bfloat16, float16) bring autocast up to the
    descriptors; batch norm, classifiers and losses stay float32. Of examples in parts a row is one part.
    """
    return [logits for logits, _ in _forward(groups, batch, training)]


def loss_parts(
    groups: Sequence[Stacked], batch: Batch, task: Task
) -> Iterator[tuple[Sequence[Stacked], list[Tensor]]]:
    """Groups and their losses ``(G,)``, to be back-propagated before the next ones are computed.

    All groups of pooled probes come at once. A group that reads every patch comes alone, in several
    parts of the batch; its loss is their sum.
    """
    pooled = [group for group in groups if isinstance(group, Group)]
    if pooled:
        yield pooled, group_losses(pooled, batch, task)
    for group in groups:
        if isinstance(group, PatchGroup):
            for losses in group.loss_parts(batch, task):
                yield [group], [losses]


def group_losses(groups: list[Group], batch: Batch, task: Task) -> list[Tensor]:
    """The losses of the members of every group, ``(G,)`` a group.

    The task's loss, of examples in parts the mean over these, and the penalties of a probe on its own
    attention. Groups with penalties share products among themselves only: `attend_together`, which the
    others use, keeps no weights. Of a part of a batch it is the part's share of the whole batch's loss.
    """
    losses, share = [], len(batch.labels) / batch.images
    found = _forward(groups, batch, training=True)
    for group, (logits, penalties) in zip(groups, found, strict=True):
        loss = task.loss(logits, *batch.targets(group.parts))
        losses.append(loss if penalties is None else loss + share * penalties)
    return losses


def _forward(
    groups: list[Group], batch: Batch, training: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Logits ``(G, B, K)`` of every group and, of those that have some, penalties ``(G,)``."""
    for group in groups:
        group.fold()
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    device = batch.labels.device.type
    for name in batch.names:  # processes that share it keep in step
        pieces = batch.pieces(name)
        if is_vector(name):
            pieces = Pieces.whole(batch.inputs[name][:, None])
        narrow = pieces.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(device, pieces.dtype if narrow else None, enabled=narrow):
            descriptors = list(_descriptors(groups, name, pieces, training))
        found |= {
            id(group): (group.classify(y, training), penalties)
            for group, y, penalties in descriptors
        }
    return [found[id(group)] for group in groups]


def _descriptors(
    groups: list[Group], name: str, pieces: Pieces, training: bool
) -> Iterator[tuple[Group, Tensor, Tensor | None]]:
    """Each group that reads the input ``name``: descriptors ``(G, B, D_o)`` and penalties ``(G,)``."""
    reading = [group for group in groups if group.input == name]
    sharing = [group for group in reading if group.shares_attention]

    def kind(group: Group) -> tuple[float | None, bool]:
        return group.layer_norm, training and group.regularised

    for norm, penalised in dict.fromkeys(map(kind, sharing)):
        alike = [group for group in sharing if kind(group) == (norm, penalised)]
        stats = [_token_stats(group, pieces, training) for group in alike]
        queries = [group.queries(s) for group, s in zip(alike, stats, strict=True)]
        attended = partial(_attend, alike, queries, norm, penalised)
        pooled, terms = zip(*pieces.each(attended), strict=True)
        for number, (group, s) in enumerate(zip(alike, stats, strict=True)):
            part = pieces.joined([of_piece[number] for of_piece in pooled])
            of_pieces = zip((one[number] for one in terms if one), pieces.shares, strict=True)
            penalty = sum(term * share for term, share in of_pieces) if penalised else None
            yield group, group.values(part, s), penalty
    for group in reading:
        if not group.shares_attention:
            group.template.train(training)
            yield group, pieces.joined(pieces.each(group.pool), 1), None


def _attend(
    groups: Sequence[Group],
    queries: Sequence[Tensor],
    norm: float | None,
    penalised: bool,
    tokens: Tensor,
    mask: Tensor | None,
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What the groups' queries pool of some tokens, ``(b, G·M, D)`` a group, and penalties ``(G,)``."""
    rstd = None if norm is None else token_rstd(tokens, norm)
    if not penalised:
        return attend_together(tokens, [q.to(tokens.dtype) for q in queries], rstd, mask), []
    sizes = [len(q) for q in queries]
    log_weights = log_attention(tokens, torch.cat(list(queries)), rstd, mask)
    weights = log_weights.exp()
    maps = zip(log_weights.split(sizes, 1), weights.split(sizes, 1), strict=True)
    penalties = [g.penalties(*mine, mask) for g, mine in zip(groups, maps, strict=True)]
    return image_sums(tokens, weights, rstd).split(sizes, 1), penalties


@torch.no_grad()
def predict(
    groups: Sequence[Stacked], batches: Iterable[Batch], task: Task, keep: Keep = "everything"
) -> list[Record]:
    """The task's record of every example, of the members of each group.

    ``batches`` are of the examples in order, at least one; ``keep`` is the records' use (`tasks/task.py`).
    """
    pooled = [group for group in groups if isinstance(group, Group)]
    parts: dict[int, list[Record]] = {id(group): [] for group in groups}
    for batch in batches:
        if pooled:
            of_pooled = forward(pooled, batch, training=False)
            for one, logits in zip(pooled, of_pooled, strict=True):
                averaged = task.averaged(logits, one.parts)
                parts[id(one)].append(task.record(averaged, batch.labels, keep))
        for group in groups:
            if isinstance(group, PatchGroup):
                parts[id(group)] += group.records(batch, task, keep)
        del batch
    return [joined(parts[id(group)], task.summed) for group in groups]


def predict_all(
    groups: Sequence[Stacked], feed: Feed, batch_size: int, task: Task, keep: Keep = "everything"
) -> list[Record]:
    """As :func:`predict`, of every example of ``feed``; several processes share examples and batches."""
    mine, place = feed.part(), world().part(len(feed))
    if len(mine):
        found = predict(groups, mine.in_order(-(-batch_size // world().size)), task, keep)
    else:
        found = [
            task.record(torch.empty(len(group), 0, group.num_outputs), mine.labels.cpu(), keep)
            for group in groups
        ]
    return [gathered(record, place, len(feed), task.summed) for record in found]


def _token_stats(group: Group, pieces: Pieces, training: bool) -> TokenStats | None:
    """Statistics of the tokens, if the group's pooling normalises by them."""
    pooling = group.template.pooling.train(training)
    assert isinstance(pooling, QueryPooling)
    stats = pooling.token_stats_of(pieces)
    if training and stats is not None:
        pooling.update_stats(stats)
    return stats
