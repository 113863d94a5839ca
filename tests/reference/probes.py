"""Probes as published, project-first and in plain formulas: every token through W_K and W_V.

Nothing is shared with `iceprobe.probes`. Each function takes tokens ``(B, N, D)`` and the
parameters by the names under which the pooling holds them, and gives the descriptor
``(B, D_o)`` and the attention ``(B, M, N)`` (``None`` without one).
"""

import math

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Output = tuple[Tensor, Tensor | None]


def linear(tokens: Tensor, p: Parameters) -> Output:
    return tokens.sum(1) / tokens.shape[1], None


def max_pool(tokens: Tensor, p: Parameters) -> Output:
    return torch.stack(
        [torch.stack([one[:, d].max() for d in range(one.shape[1])]) for one in tokens]
    ), None


def mean_value(tokens: Tensor, p: Parameters) -> Output:
    return (tokens @ p["value.weight"].T).sum(1) / tokens.shape[1], None


def ep(tokens: Tensor, p: Parameters) -> Output:
    """Every token projected by W_V, then a weighted sum of each slice."""
    scores = torch.stack([tokens @ u for u in p["query"]], 1) / math.sqrt(tokens.shape[-1])
    weights = softmax(scores)
    return weighted_slices(weights, tokens @ p["value.weight"].T), weights


def ep_identity(tokens: Tensor, p: Parameters) -> Output:
    scores = torch.stack([tokens @ u for u in p["query"]], 1) / math.sqrt(tokens.shape[-1])
    weights = softmax(scores)
    return weighted_slices(weights, tokens), weights


def ep_sliced(tokens: Tensor, p: Parameters) -> Output:
    heads, width = p["query"].shape
    keys = tokens.split(width, -1)
    scores = torch.stack([keys[j] @ p["query"][j] for j in range(heads)], 1) / math.sqrt(width)
    weights = softmax(scores)
    return weighted_slices(weights, tokens @ p["value.weight"].T), weights


def mhca(tokens: Tensor, p: Parameters, heads: int) -> Output:
    """Keys and values of every token, one query in ``heads`` parts."""
    width = p["query"].shape[1] // heads
    keys = (tokens @ p["key.weight"].T).split(width, -1)
    queries = p["query"][0].split(width)
    scores = torch.stack([k @ q for k, q in zip(keys, queries, strict=True)], 1)
    weights = softmax(scores / math.sqrt(width))
    return weighted_slices(weights, tokens @ p["value.weight"].T), weights


def aim(tokens: Tensor, p: Parameters, heads: int, norm: torch.nn.BatchNorm1d) -> Output:
    """MHCA on tokens through torch's own batch norm, ``(B·N, D)`` at once."""
    return mhca(norm(tokens.flatten(0, 1)).view_as(tokens), p, heads)


def abmilp(tokens: Tensor, p: Parameters) -> Output:
    if "mix.qkv.weight" in p:
        dim = tokens.shape[-1]
        q, k, v = (tokens @ w.T for w in p["mix.qkv.weight"].split(dim))
        mixed = softmax(q @ k.transpose(1, 2) / math.sqrt(dim)) @ v
        tokens = mixed @ p["mix.proj.weight"].T + p["mix.proj.bias"]
    hidden = tokens
    if "hidden.weight" in p:
        hidden = torch.tanh(tokens @ p["hidden.weight"].T + p["hidden.bias"])
    if "gate.weight" in p:
        hidden = hidden / (1 + (-(tokens @ p["gate.weight"].T) - p["gate.bias"]).exp())
    weights = softmax((hidden @ p["scorer.weight"].T + p["scorer.bias"]).transpose(1, 2))
    return (weights[:, 0, :, None] * tokens).sum(1), weights


def dsmil(tokens: Tensor, p: Parameters) -> Output:
    """Every token's query is formed; example by example, critical instance by critical instance."""
    outputs, maps = [], []
    for x in tokens:
        q = x @ p["q.weight"].T + p["q.bias"]
        bags, highest, attention, chosen = [], [], [], []
        for w, b in zip(p["instance.weight"], p["instance.bias"], strict=True):
            c = x @ w + b
            critical = max(range(len(x)), key=lambda n, c=c: float(c[n].detach()))
            a = softmax(q @ q[critical] / math.sqrt(q.shape[1]))
            bags.append((a[:, None] * x).sum(0))
            highest.append(c[critical])
            attention.append(a)
            chosen.append(torch.eye(len(x)).to(x)[critical])
        outputs.append(torch.cat([*bags, torch.stack(highest)]))
        maps.append(torch.stack(attention + chosen))
    return torch.stack(outputs), torch.stack(maps)


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis, by its definition."""
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def weighted_slices(weights: Tensor, values: Tensor) -> Tensor:
    """``[Σ_n a_1n v_1n … Σ_n a_Mn v_Mn]``, v_j being the j-th of M slices of the values."""
    slices = values.split(values.shape[-1] // weights.shape[1], -1)
    return torch.cat([(weights[:, j, :, None] * v).sum(1) for j, v in enumerate(slices)], -1)
