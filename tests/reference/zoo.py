"""More probes as published, in plain formulas: one token, one head, one place at a time.

As in `tests.reference.probes`: tokens ``(B, N, D)`` and parameters by name → descriptor and raw
attention. Batch norms take the statistics of the batch, or the ``running`` (mean, variance).
"""

import math

import torch
from torch import Tensor

from tests.reference.probes import Output, Parameters, softmax

Statistics = tuple[Tensor, Tensor]


def block(tokens: Tensor, p: Parameters, heads: int) -> Output:
    x, dim = tokens, tokens.shape[-1]
    width = dim // heads
    q, k, v = (layer_norm(x, p, "norm1", 1e-5) @ w.T for w in p["qkv.weight"].split(dim))
    mixed = []
    for part in (slice(h * width, (h + 1) * width) for h in range(heads)):
        scores = torch.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) / math.sqrt(width)
        mixed.append(torch.einsum("bnm,bmd->bnd", softmax(scores), v[..., part]))
    z = x + linear(torch.cat(mixed, -1), p, "proj")
    hidden = linear(layer_norm(z, p, "norm2", 1e-5), p, "mlp.0")
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return (z + linear(gelu, p, "mlp.2")).sum(1) / x.shape[1], None


def delf(tokens: Tensor, p: Parameters, running: Statistics | None = None) -> Output:
    z = linear(tokens, p, "conv")
    mean, variance = running or moments(z, (0, 1))
    z = (z - mean) / (variance + 1e-5).sqrt() * p["norm.weight"] + p["norm.bias"]
    scores = (1 + linear(z.clamp_min(0), p, "scorer").exp()).log()
    unit = z / (z * z).sum(-1, keepdim=True).sqrt()
    return (scores * unit).sum(1) / z.shape[1], scores.transpose(1, 2)


def cbam(
    tokens: Tensor, p: Parameters, grid: tuple[int, int], running: Statistics | None = None
) -> Output:
    def narrow(channels: Tensor) -> Tensor:
        return (channels @ p["mlp.0.weight"].T).clamp_min(0) @ p["mlp.2.weight"].T

    gate = sigmoid(narrow(tokens.sum(1) / tokens.shape[1]) + narrow(tokens.max(1).values))
    gated = tokens * gate[:, None, :]
    maps = torch.stack([gated.sum(-1) / gated.shape[-1], gated.max(-1).values], 1)
    places = convolve(maps.reshape(-1, 2, *grid), p["conv.weight"][0])
    mean, variance = running or moments(places, (0, 1, 2))
    places = (places - mean) / (variance + 1e-5).sqrt() * p["norm.weight"] + p["norm.bias"]
    spatial = sigmoid(places).reshape(len(tokens), 1, -1)
    out = (tokens + gated * spatial.transpose(1, 2)).clamp_min(0)
    return out.sum(1) / tokens.shape[1], spatial


def slot(tokens: Tensor, p: Parameters, iterations: int) -> Output:
    x, dim = layer_norm(tokens, p, "token_norm"), tokens.shape[-1]
    keys, values = x @ p["key.weight"].T, x @ p["value.weight"].T
    slots = p["slots"].expand(len(tokens), -1, -1)
    for _ in range(iterations):
        queries = layer_norm(slots, p, "slot_norm") @ p["query.weight"].T
        won = softmax(torch.einsum("bnd,bmd->bnm", keys, queries) / math.sqrt(dim)) + 1e-8
        weights = won / won.sum(1, keepdim=True)
        slots = gru(torch.einsum("bnm,bnd->bmd", weights, values), slots, p)
        hidden = linear(layer_norm(slots, p, "mlp.0"), p, "mlp.1").clamp_min(0)
        slots = slots + linear(hidden, p, "mlp.3")
    return slots.sum(1) / slots.shape[1], weights.transpose(1, 2)


def gru(inputs: Tensor, state: Tensor, p: Parameters) -> Tensor:
    """Cho et al.: h' = (1 − z)·n + z·h, n = tanh(W_n x + b + r·(U_n h + c))."""
    dim = state.shape[-1]
    w, u = p["gru.weight_ih"].split(dim), p["gru.weight_hh"].split(dim)
    b, c = p["gru.bias_ih"].split(dim), p["gru.bias_hh"].split(dim)
    x = [inputs @ w[i].T + b[i] for i in range(3)]
    h = [state @ u[i].T + c[i] for i in range(3)]
    reset, keep = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
    return (1 - keep) * torch.tanh(x[2] + reset * h[2]) + keep * state


def convolve(maps: Tensor, kernel: Tensor) -> Tensor:
    """Zero-padded cross-correlation, ``(B, c, H, W)`` and ``(c, k, k)`` → ``(B, H, W)``."""
    rows, columns = maps.shape[-2:]
    reach = kernel.shape[-1] // 2
    padded = maps.new_zeros(*maps.shape[:2], rows + 2 * reach, columns + 2 * reach)
    padded[..., reach : reach + rows, reach : reach + columns] = maps
    total = maps.new_zeros(len(maps), rows, columns)
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            window = padded[..., i : i + rows, j : j + columns]
            total = total + (window * kernel[:, i, j, None, None]).sum(1)
    return total


def linear(x: Tensor, p: Parameters, name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Parameters, name: str, epsilon: float = 1e-6) -> Tensor:
    mean, variance = moments(x, (-1,), keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def moments(x: Tensor, axes: tuple[int, ...], keepdim: bool = False) -> Statistics:
    """Mean and biased variance."""
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (mean, variance) if keepdim else (mean.flatten(), variance.flatten())


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())
