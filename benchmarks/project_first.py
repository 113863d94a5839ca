"""Attentive probes as their publications compute them: every token through W_V (and W_K) first.

    y_j = (W_Vj X) a_j        a_j = softmax_N((W_Kj X)ᵀ q_j / √(D/M))

In large matrix products, on the parameters of iceprobe's own poolings, so that the two sides of a
benchmark are one function. Each takes the pooling and tokens ``(B, N, D)`` and gives ``(B, D_o)``.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.probes.pooling import Pooling


def ep(pooling: nn.Module, tokens: Tensor) -> Tensor:
    queries = pooling.query * tokens.shape[-1] ** -0.5
    return _weighted((queries @ tokens.mT).softmax(-1), F.linear(tokens, pooling.value.weight))


def aim(pooling: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens through torch's batch norm, then keys and values."""
    rows = F.batch_norm(tokens.flatten(0, 1), None, None, training=True, eps=1e-6).view_as(tokens)
    keys, values = F.linear(rows, pooling.key.weight), F.linear(rows, pooling.value.weight)
    return _attended(pooling.query, keys, values, pooling.num_predictors)


def vjepa(pooling: nn.Module, tokens: Tensor) -> Tensor:
    keys, values = pooling.kv(pooling.norm1(tokens)).chunk(2, -1)
    query = pooling.q(pooling.query)
    y = _attended(query, keys, values, pooling.num_predictors)
    z = pooling.query + pooling.proj(y)
    return z + pooling.mlp(pooling.norm2(z))


def siglip(pooling: nn.Module, tokens: Tensor) -> Tensor:
    keys, values = pooling.kv(tokens).chunk(2, -1)
    query = pooling.q(pooling.latent)
    x = pooling.proj(_attended(query, keys, values, pooling.num_predictors))
    return x + pooling.mlp(x)


FORWARD = {"ep": ep, "aim": aim, "vjepa": vjepa, "siglip": siglip}

#: D × D products that every token goes through, forward and backward: two of W_V, four with W_K.
#: V-JEPA's LayerNorm has parameters, so its two products have a third each, back to their input.
PROJECTIONS = {"ep": 2, "aim": 4, "vjepa": 6, "siglip": 4}


def step_macs(probe: str, pooling: Pooling, num_tokens: int, dim: int) -> float:
    """Multiply–adds of one image's forward and backward, matrix products only.

    Beside the projections: EP's queries meet the tokens themselves (M·D a token, forward and
    by-query backward), the others' meet keys (D a token, with both gradients); values are gathered
    by D a token with both gradients; what follows the pooling is that of pool-first.
    """
    meeting = 2 * pooling.num_predictors * dim if probe == "ep" else 3 * dim
    after = pooling.macs(0) - dim * dim  # pool-first has W_V there
    return num_tokens * (PROJECTIONS[probe] * dim * dim + meeting + 3 * dim) + 3 * after


def pool_first_macs(pooling: Pooling, num_tokens: int) -> float:
    """The same of pool-first: tokens are met by scores and sums, forward and backward, once each."""
    after = pooling.macs(0)
    return 2 * (pooling.macs(num_tokens) - after) + 3 * after


def _attended(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    keys = keys.unflatten(-1, (heads, -1)).transpose(1, 2)
    query = query.view(1, heads, 1, -1) * keys.shape[-1] ** -0.5
    return _weighted((query @ keys.mT).softmax(-1).squeeze(2), values)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """``(B, M, N)``, ``(B, N, D_o)`` → ``(B, D_o)``."""
    values = values.unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
    return (weights.unsqueeze(2) @ values).flatten(1)
