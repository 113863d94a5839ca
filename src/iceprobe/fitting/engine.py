"""The engine: every member of every group learns from the same batch in the same pass.

    batch ─▶ queries of all members side by side ─▶ one attend() ─▶ each group's values ─▶
             batch norm, classifiers ─▶ sum of all members' losses ─▶ one backward ─▶ optimiser

Members don't touch each other: a sum of losses has each member's own gradient, and a row of the
shared products belongs to one query. So a member trained in a crowd ends where it ends alone.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.members import Group
from iceprobe.fitting.optimisers import build_optimizer, hand_over, warmup_cosine
from iceprobe.machine.processes import world
from iceprobe.machine.shared_batches import learning_from, sum_gradients
from iceprobe.probes.attend import attend_together, image_sums, log_attention
from iceprobe.probes.layer_norm import token_rstd
from iceprobe.probes.pooling import QueryPooling, TokenStats


class Crowd:
    """Groups that train together.

    Args:
        groups: to train.
        optimizer: ``"adamw"`` or ``"lars"``.
        steps, warmup: horizon and warm-up of the schedule, in steps.
        stops: step at which each group stops learning, at most ``steps``.
    """

    def __init__(
        self,
        groups: list[Group],
        optimizer: str,
        steps: int,
        warmup: int,
        stops: list[int] | None = None,
    ):
        self.groups, self.steps, self.warmup = groups, steps, warmup
        self.stops = stops or [steps] * len(groups)
        self.step = 0
        self._name = optimizer
        self.optimizer = self._build_optimizer()

    def _build_optimizer(self) -> Optimizer:
        alike: dict[tuple[float, float], list[Tensor]] = {}  # one fused step for each
        for group in self.groups:
            for member, view in zip(group.members, group.views, strict=True):
                parameters = alike.setdefault((member.learning_rate, member.weight_decay), [])
                parameters += view.values()
        optimizer = build_optimizer(
            self._name,
            [
                {"params": parameters, "lr": rate, "weight_decay": decay}
                for (rate, decay), parameters in alike.items()
            ],
        )
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """Go on with the members at ``places`` of each group; a group left without any goes.

        What stays is trained as if the others were still there.
        """
        going = [
            one for one in zip(self.groups, self.stops, places, strict=True) if len(one[2]) > 0
        ]
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
    def active(self) -> list[Group]:
        """The groups that are still learning."""
        pairs = zip(self.groups, self.stops, strict=True)
        return [group for group, stop in pairs if self.step < stop]

    def train_step(self, batch: Batch) -> list[Tensor]:
        """One step of every active group; the losses of its members, ``(G,)`` a group.

        Of a batch that several processes share, the step and the losses are those of the whole.
        """
        active, shared = self.active, batch.images > len(batch.labels)
        with learning_from(len(batch.labels), batch.images) as weight:
            losses = [loss * weight for loss in group_losses(active, batch)]
            torch.stack([loss.sum() for loss in losses]).sum().backward()
        if shared:
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
        return [loss.detach() for loss in losses]

    def state(self) -> dict[str, Tensor]:
        """All that training changes, flat, for the checkpoint."""
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
    """Logits ``(G, B, C)`` of every group from one read of the batch.

    Groups whose scores are linear in the tokens put their queries side by side: one product
    scores all of them, one pools all of them (one each for every ε of a LayerNorm that some
    read the tokens through). Narrow tokens (bfloat16, float16) bring autocast up to the
    descriptors; batch norm, classifiers and losses stay float32.
    """
    return [logits for logits, _ in _forward(groups, batch, training)]


def group_losses(groups: list[Group], batch: Batch) -> list[Tensor]:
    """What the members of every group learn by, ``(G,)`` a group.

    Cross-entropy, and the terms of a probe that reads its own attention. Such groups share the
    products of `forward` among themselves alone: those by which the others learn keep the
    weights to themselves (`attend_together`).
    """
    losses = []
    for logits, penalties in _forward(groups, batch, training=True):
        loss = member_losses(logits, batch.labels)
        losses.append(loss if penalties is None else loss + penalties)
    return losses


def _forward(
    groups: list[Group], batch: Batch, training: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Logits ``(G, B, C)`` of every group and, of those that have some, penalties ``(G,)``."""
    for group in groups:
        group.fold()
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    for name, tokens in sorted(batch.inputs.items()):  # processes that share it keep in step
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        narrow = tokens.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(tokens.device.type, tokens.dtype if narrow else None, enabled=narrow):
            descriptors = list(_descriptors(groups, name, tokens, training))
        found |= {
            id(group): (group.classify(y, training), penalties)
            for group, y, penalties in descriptors
        }
    return [found[id(group)] for group in groups]


def _descriptors(
    groups: list[Group], name: str, tokens: Tensor, training: bool
) -> Iterator[tuple[Group, Tensor, Tensor | None]]:
    """Each group that reads the input ``name``, with its descriptors ``(G, B, D_o)``.

    And, where it learns by its attention too, the penalties ``(G,)`` on that.
    """
    reading = [group for group in groups if group.input == name]
    sharing = [group for group in reading if group.shares_attention]

    def kind(group: Group) -> tuple[float | None, bool]:
        return group.layer_norm, training and group.regularised

    for norm, penalised in dict.fromkeys(map(kind, sharing)):
        alike = [group for group in sharing if kind(group) == (norm, penalised)]
        rstd = None if norm is None else token_rstd(tokens, norm)
        stats = [_token_stats(group, tokens, training) for group in alike]
        queries = [group.queries(s) for group, s in zip(alike, stats, strict=True)]
        penalties: list[Tensor | None] = [None] * len(alike)
        if penalised:
            log_weights = log_attention(tokens, torch.cat(queries), rstd)
            sizes = [len(q) for q in queries]
            weights = log_weights.exp()
            parts = image_sums(tokens, weights, rstd).split(sizes, 1)
            maps = zip(log_weights.split(sizes, 1), weights.split(sizes, 1), strict=True)
            penalties = [g.penalties(*mine) for g, mine in zip(alike, maps, strict=True)]
        else:
            parts = attend_together(tokens, [q.to(tokens.dtype) for q in queries], rstd)
        for group, part, s, penalty in zip(alike, parts, stats, penalties, strict=True):
            yield group, group.values(part, s), penalty
    for group in reading:
        if not group.shares_attention:
            group.template.train(training)
            yield group, group.pool(tokens), None


def member_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each member, ``(G, B, C)`` → ``(G,)``."""
    members, images, _ = logits.shape
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(members), reduction="none")
    return losses.view(members, images).mean(1)


@torch.no_grad()
def predict(groups: list[Group], batches: Iterable[Batch], top: int) -> list[Tensor]:
    """The ``top`` best classes of every image, ``(G, n, top)`` int32 a group, best first.

    A member with a logit that isn't finite (it has diverged) predicts −1, which is no class.
    """
    found: list[list[Tensor]] = [[] for _ in groups]
    for batch in batches:
        for found_here, logits in zip(found, forward(groups, batch, training=False), strict=True):
            best = logits.topk(top, dim=-1).indices
            finite = logits.isfinite().all(-1, keepdim=True)
            found_here.append(torch.where(finite, best, -1).to("cpu", torch.int32))
        del batch
    return [torch.cat(parts, 1) for parts in found]


def predict_all(groups: list[Group], feed: Feed, batch_size: int, top: int) -> list[Tensor]:
    """As :func:`predict`, of every image of ``feed``; several processes share images and batches."""
    mine, place = feed.part(), world().part(len(feed))
    if len(mine):
        tops = predict(groups, mine.in_order(-(-batch_size // world().size)), top)
    else:
        tops = [torch.empty(len(group), 0, top, dtype=torch.int32) for group in groups]
    return [world().assembled(t, place, len(feed), dim=1) for t in tops]


def _token_stats(group: Group, tokens: Tensor, training: bool) -> TokenStats | None:
    """Statistics of the tokens that the group's pooling normalises by, if it does."""
    pooling = group.template.pooling.train(training)
    assert isinstance(pooling, QueryPooling)
    stats = pooling.token_stats(tokens)
    if training and stats is not None:
        pooling.update_stats(stats)
    return stats
