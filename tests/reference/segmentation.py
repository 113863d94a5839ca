"""Segmentation probes and bilinear sampling, one patch, one class and one pixel at a time, float64."""

import math

import numpy as np


def linear(tokens, weight, bias):
    """``(N, D)``, ``(C, D)``, ``(C,)`` → ``(N, C)``."""
    return np.array([[w @ x + b for w, b in zip(weight, bias, strict=True)] for x in tokens])


def attention(tokens, query):
    scores = [math.exp(x @ query / math.sqrt(len(query))) for x in tokens]
    return np.array(scores) / sum(scores)


def ep(tokens, weight, bias, queries, evidence):
    """``queries (M, D)`` and ``evidence (M, C, D)`` besides."""
    z = linear(tokens, weight, bias)
    for u, e in zip(queries, evidence, strict=True):
        a = attention(tokens, u)
        pooled = sum(w * x for w, x in zip(a, tokens, strict=True))
        for n in range(len(tokens)):
            z[n] += len(tokens) * a[n] * (e @ pooled) / len(queries)
    return z


def bilinear(cells, side):
    """A map ``(H, W)`` at the centres of ``side x side`` pixels; beyond the last centres constant."""
    height, width = cells.shape
    out = np.empty((side, side))
    for r in range(side):
        for c in range(side):
            y = min(max((r + 0.5) * height / side - 0.5, 0), height - 1)
            x = min(max((c + 0.5) * width / side - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = cells[y0, x0] * (x0 + 1 - x) + cells[y0, x1] * (x - x0)
            bottom = cells[y1, x0] * (x0 + 1 - x) + cells[y1, x1] * (x - x0)
            out[r, c] = top * (y0 + 1 - y) + bottom * (y - y0)
    return out


def cross_entropy(logits, truth, ignore):
    """Mean over the pixels that count: ``(b, C, S, S)``, ``(b, S, S)``."""
    losses = []
    for z, t in zip(logits, truth, strict=True):
        for r, c in zip(*np.nonzero(t != ignore), strict=True):
            losses.append(math.log(sum(math.exp(v) for v in z[:, r, c])) - z[t[r, c], r, c])
    return sum(losses) / len(losses)
