"""How much a probe depends on each predictor.

    importance_j = accuracy(probe) − accuracy(probe with a_j = 1/N on every patch, 0 elsewhere)

Accuracy stands for the metric that leads; where less of it is better, the sign is turned. The rest of the probe stays as it was fitted. What the predictors pool, p_j = Xᵀ a_j, is computed once, and
so is the mean of the patches, which a uniform predictor pools. The mean replaces one p_j after the other,
and only values, norm and classifier are computed again.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.masks import mean_tokens
from iceprobe.probes.pooling import AttentivePooling
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe


def has_importance(probe: "Probe") -> bool:
    """Whether the probe's descriptor is a function of what its predictors pool, and no more."""
    return isinstance(probe.pooling, AttentivePooling)


@torch.no_grad()
def replaced_logits(probe: "Probe", tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Logits of a probe as it is, and with each of its predictors made uniform.

    Args:
        probe: fitted, in evaluation mode; its pooling is an ``AttentivePooling``.
        tokens: of B images, where the probe is.

    Returns:
        ``(B, C)``, and ``(M, B, C)`` with predictor j replaced.

    Raises:
        IceprobeError: if the pooling isn't of that kind (it has keys of its own beside the
            tokens, or a query an image).
    """
    pooling = probe.pooling
    if not isinstance(pooling, AttentivePooling):
        raise IceprobeError(
            f"no predictor of {type(pooling).__name__} can be replaced alone: its descriptor isn't "
            "a function of what predictors pool; take ep, mhca or aim"
        )
    selected, *mask = probe.read_tokens(tokens)
    prepared = pooling.prepare(selected, *mask)
    weights = pooling.normalise(pooling.scores(prepared, *mask), *mask)
    pooled = weights @ prepared
    patches = probe.patches_among(prepared.shape[1], tokens.patches.shape[1] // probe.parts)
    uniform = mean_tokens(prepared[:, patches], *(rows[:, patches] for rows in mask))
    before = probe.classify(pooling.values(pooled))
    replaced, after = pooled.clone(), []
    for j in range(pooled.shape[1]):
        replaced[:, j] = uniform
        after.append(probe.classify(pooling.values(replaced)))
        replaced[:, j] = pooled[:, j]
    return before, torch.stack(after)
