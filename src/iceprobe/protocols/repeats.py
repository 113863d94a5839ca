"""How often a fit is repeated where the caller doesn't say.

Probes that are compared need an interval that knows what the order, the held-out part and the
initialisation change: replicates. Of five, the interval of a difference is 1.35 times as wide as one that knew
that replicates don't differ, of three 1.68 times, of ten 1.24 times (``python -m benchmarks.verdicts --only
rule``), and a replicate costs a fit.
"""

REPLICATES = 5  # where two or more trained probes are compared, and of low-shot draws
SEEDS = 3  # of a single probe, and under a protocol that selects on what it reports


def repeated(
    seeds: int | None, replicates: int | None, *, trained: int, held_out: float, low_shot: bool
) -> tuple[int, int | None]:
    """Seeds and replicates of a fit; who names either gets it, but for seeds of a low-shot fit.

    Args:
        seeds, replicates: as they were asked for.
        trained: probes that are trained.
        held_out: part of the training images that selects, of the protocol.
        low_shot: whether the training images are drawn, anew in every replicate.
    """
    compared = seeds is None and trained > 1 and held_out > 0
    if replicates is None and (low_shot or compared):
        replicates = REPLICATES
    return (SEEDS if seeds is None else seeds), replicates
