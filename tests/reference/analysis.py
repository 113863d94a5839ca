"""The measures of where probes look, one image, one cell and one pixel at a time, in float64."""

import math
from itertools import combinations

import numpy as np


def entropy(a):
    return -sum(w * math.log(w) for w in a if w > 0) / math.log(len(a))


def cells(grid, size):
    """``(x0, y0, x1, y1)`` of each cell, row by row."""
    height, width = grid
    h, w = size / height, size / width
    return [(c * w, r * h, (c + 1) * w, (r + 1) * h) for r in range(height) for c in range(width)]


def intersection(a, b):
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def area(a):
    return (a[2] - a[0]) * (a[3] - a[1])


def iou(a, b):
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared)


def mass_in_box(a, box, grid, size):
    places = zip(a, cells(grid, size), strict=True)
    return sum(w * intersection(cell, box) / area(cell) for w, cell in places)


def mass_in_mask(a, mask, grid):
    pixels = [(x, y, x + 1, y + 1) for y, x in zip(*np.nonzero(mask), strict=True)]
    places = zip(a, cells(grid, len(mask)), strict=True)
    return sum(w * sum(intersection(c, p) for p in pixels) / area(c) for w, c in places)


def centroid(a, grid, size):
    places = list(zip(a, cells(grid, size), strict=True))
    return (
        sum(w * (c[0] + c[2]) / 2 for w, c in places),
        sum(w * (c[1] + c[3]) / 2 for w, c in places),
    )


def cosine_complementarity(maps):
    found = [
        np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)) for a, b in combinations(maps, 2)
    ]
    return 1 - sum(found) / len(found)


def intersection_complementarity(maps):
    found = [sum(min(x, y) for x, y in zip(a, b, strict=True)) for a, b in combinations(maps, 2)]
    return 1 - sum(found) / len(found)


def component_boxes(inside):
    """Boxes of the connected components (eight neighbours) of ``(S, S)`` booleans, by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(inside), strict=True)}
    boxes = []
    while left:
        open_, component = [left.pop()], []
        while open_:
            y, x = open_.pop()
            component.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            open_ += near
        ys, xs = zip(*component, strict=True)
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


def upsampled(map_, size):
    """Bilinear, pixel centres aligned by area, edges repeated: ``(H, W)`` → ``(S, S)``."""
    out = np.empty((size, size))
    height, width = map_.shape
    for y in range(size):
        for x in range(size):
            v = max((y + 0.5) * height / size - 0.5, 0)
            u = max((x + 0.5) * width / size - 0.5, 0)
            r, c = int(v), int(u)
            below, right = min(r + 1, height - 1), min(c + 1, width - 1)
            dv, du = v - r, u - c
            top = map_[r, c] * (1 - du) + map_[r, right] * du
            bottom = map_[below, c] * (1 - du) + map_[below, right] * du
            out[y, x] = top * (1 - dv) + bottom * dv
    return out


def max_box_accuracy(maps, boxes, size, thresholds, deltas):
    """Each δ's best accuracy over thresholds; ``boxes``: a list of boxes an image."""
    best = []
    for delta in deltas:
        accuracies = []
        for threshold in thresholds:
            correct = 0
            for map_, truths in zip(maps, boxes, strict=True):
                scaled = (map_ - map_.min()) / (map_.max() - map_.min())
                found = component_boxes(upsampled(scaled, size) >= threshold)
                correct += any(iou(one, truth) >= delta for one in found for truth in truths)
            accuracies.append(correct / len(maps))
        best.append(max(accuracies))
    return best


def recall_at(descriptors, labels, k):
    hits = 0
    for i, query in enumerate(descriptors):
        cosines = [
            (np.dot(query, other) / np.linalg.norm(query) / np.linalg.norm(other), labels[j])
            for j, other in enumerate(descriptors)
            if j != i
        ]
        nearest = sorted(cosines, key=lambda pair: -pair[0])[:k]
        hits += any(label == labels[i] for _, label in nearest)
    return hits / len(descriptors)


def spearman(x, y):
    """Pearson's correlation of ranks, ties sharing their mean rank."""

    def ranks(values):
        return [
            sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]

    a, b = np.array(ranks(x)), np.array(ranks(y))
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
