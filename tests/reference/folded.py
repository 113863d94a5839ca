"""Published probes whose keys fold into queries, project-first: every key and value is formed.

Nothing is shared with `iceprobe.probes`. Each function takes tokens ``(B, N, D)``, the parameters
by the names under which the pooling holds them and the number of heads, and gives the descriptor
``(B, D)`` and the attention ``(B, M, P + N)``, keys that the probe adds itself first.
"""

import math

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Output = tuple[Tensor, Tensor]


def simpool(tokens: Tensor, p: Parameters, heads: int) -> Output:
    mean = tokens.sum(1, keepdim=True) / tokens.shape[1]
    normed = layer_norm(tokens, p, "norm", 1e-6)
    if "q.weight" in p:
        return attention(mean @ p["q.weight"].T, normed @ p["k.weight"].T, normed, heads)
    return attention(layer_norm(mean, p, "norm", 1e-6), normed, tokens, heads)


def clip(tokens: Tensor, p: Parameters, heads: int) -> Output:
    """Full self-attention: all N + 1 queries are formed, and all but the first thrown away."""
    normed = layer_norm(tokens, p, "norm", 1e-6)
    z = torch.cat([normed.sum(1, keepdim=True) / tokens.shape[1], normed], 1) + p["position"]
    q, k, v = (z @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, -1)
    outputs, weights = zip(
        *[attention(q[:, i : i + 1], k, v, heads) for i in range(z.shape[1])], strict=True
    )
    return linear(outputs[0], p, "proj"), weights[0]


def siglip(tokens: Tensor, p: Parameters, heads: int) -> Output:
    query = linear(p["latent"], p, "q").expand(len(tokens), 1, -1)
    key, value = linear(tokens, p, "kv").chunk(2, -1)
    y, weights = attention(query, key, value, heads)
    x = linear(y, p, "proj")
    return x + mlp(x, p), weights


def vjepa(tokens: Tensor, p: Parameters, heads: int) -> Output:
    query = linear(p["query"], p, "q").expand(len(tokens), 1, -1)
    key, value = linear(layer_norm(tokens, p, "norm1", 1e-5), p, "kv").chunk(2, -1)
    y, weights = attention(query, key, value, heads)
    z = p["query"] + (linear(y, p, "proj") if "proj.weight" in p else y)
    return z + mlp(layer_norm(z, p, "norm2", 1e-5), p), weights


def cait(tokens: Tensor, p: Parameters, heads: int) -> Output:
    every = torch.cat([p["cls"].expand(len(tokens), 1, -1), tokens], 1)
    normed = layer_norm(every, p, "norm1", 1e-6)
    y, weights = attention(
        linear(normed[:, :1], p, "q"), linear(normed, p, "k"), linear(normed, p, "v"), heads
    )
    z = p["cls"] + p["gamma1"] * linear(y, p, "proj")
    z = z + p["gamma2"] * mlp(layer_norm(z, p, "norm2", 1e-6), p)
    return layer_norm(z, p, "norm", 1e-5), weights


def cae(tokens: Tensor, p: Parameters, heads: int) -> Output:
    query = layer_norm(p["query"].expand(len(tokens), 1, -1), p, "norm_q", 1e-5) @ p["q.weight"].T
    key = layer_norm(tokens, p, "norm_k", 1e-5) @ p["k.weight"].T
    value = layer_norm(tokens, p, "norm_v", 1e-5) @ p["v.weight"].T
    y, weights = attention(query, key, value, heads)
    return linear(y, p, "proj"), weights


def coca(tokens: Tensor, p: Parameters, heads: int) -> Output:
    """The one key and value head, repeated for every query head."""
    weightless = {**p, "norm.bias": torch.zeros_like(p["norm.weight"])}
    query = layer_norm(p["query"][:1], weightless, "norm", 1e-5) @ p["q.weight"].T
    key, value = (tokens @ p["kv.weight"].T).split(64, -1)
    y, weights = attention(
        query.expand(len(tokens), 1, -1), key.repeat(1, 1, heads), value.repeat(1, 1, heads), heads
    )
    return y @ p["proj.weight"].T, weights


def capi(tokens: Tensor, p: Parameters, heads: int) -> Output:
    key, value = linear(tokens, p, "kv").chunk(2, -1)
    return attention(p["query"].expand(len(tokens), 1, -1), key, value, heads)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Output:
    """Query ``(B, 1, A)``, keys ``(B, K, A)``, values ``(B, K, E)``, head by head."""
    outputs, weights = [], []
    parts = zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True)
    for q, k, v in parts:
        scores = (q * k).sum(-1) / math.sqrt(q.shape[-1])
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        a = e / e.sum(-1, keepdim=True)
        outputs.append((a[..., None] * v).sum(1))
        weights.append(a)
    return torch.cat(outputs, -1), torch.stack(weights, 1)


def linear(x: Tensor, p: Parameters, name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Parameters, name: str, epsilon: float) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    variance = deviation.square().mean(-1, keepdim=True)
    return deviation / (variance + epsilon).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def mlp(x: Tensor, p: Parameters) -> Tensor:
    """Linear, GELU by its definition, Linear."""
    hidden = linear(x, p, "mlp.0")
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return linear(hidden, p, "mlp.2")
