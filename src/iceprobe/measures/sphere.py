"""How normalised vectors lie on the sphere: uniformity and alignment (Wang & Isola 2020).

    uniformity  ln mean_{i<j} exp(−2 ‖x_i − x_j‖²)
    alignment   mean over examples and pairs of their views of ‖x − x⁺‖²

Of q unit vectors with sum s the mean of ‖x − x⁺‖² over pairs is 2 (q² − ‖s‖²) / (q (q − 1)).
"""

from collections.abc import Iterable

import numpy as np

from iceprobe.measures.moments import Floats
from iceprobe.measures.registry import Undefined

T = 2.0
_CELLS = 4_000_000  # of distances held at once: 32 MB


def normalised(vectors: Floats) -> Floats:
    """Of length 1, ``(…, D)``.

    Raises:
        Undefined: if one is 0.
    """
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not length.all():
        raise Undefined("a vector that is 0 has no direction")
    return np.asarray(vectors / length)


def uniformity(vectors: Floats, t: float = T) -> float:
    """Over all pairs of ``vectors (n, D)``, n ≥ 2."""
    unit = normalised(vectors)
    n, total = len(unit), 0.0
    step = max(1, _CELLS // n)
    for start in range(0, n, step):
        rows = unit[start : start + step]
        apart = np.maximum(2 - 2 * rows @ unit[start:].T, 0.0)
        total += float(np.triu(np.exp(-t * apart), 1).sum())  # pairs i < j alone
    return float(np.log(total / (n * (n - 1) / 2)))


def alignment(views: Iterable[Floats]) -> float:
    """Over examples whose q ≥ 2 views come in blocks ``(b, q, D)``."""
    total, count = 0.0, 0
    for block in views:
        q = block.shape[1]
        length = (normalised(block).sum(1) ** 2).sum(-1)
        total += float((2 * (q * q - length) / (q * (q - 1))).sum())
        count += len(block)
    return max(total / count, 0.0)
