"""Each measure of `MEASURES` as a function of `Vectors`: what it reads of them, and its numbers by name.

The mathematics is in the files of the measures. A function raises `Undefined` where there is no value.
"""

from iceprobe.measures import cka, lidar, spectrum, sphere
from iceprobe.measures.reading import Vectors
from iceprobe.measures.registry import Undefined

Numbers = dict[str, float]


def rankme(vectors: Vectors) -> Numbers:
    moments = vectors.moments
    if not (second := moments.second).any():
        raise Undefined("all vectors are 0")
    return {"rankme": spectrum.rankme(second, moments.count)}


def participation(vectors: Vectors) -> Numbers:
    return {"participation": spectrum.participation_ratio(vectors.spectrum)}


def alpha(vectors: Vectors) -> Numbers:
    found = spectrum.alpha_req(vectors.spectrum)
    return {"alpha": found.alpha, "alpha_r2": found.r2, "alpha_last": float(found.last)}


def uniformity(vectors: Vectors) -> Numbers:
    chosen = vectors.some()
    return {"uniformity": sphere.uniformity(chosen), "uniformity_vectors": float(len(chosen))}


def alignment(vectors: Vectors) -> Numbers:
    return {"alignment": sphere.alignment(vectors.views()), "views": float(vectors.views_each)}


def lidar_rank(vectors: Vectors) -> Numbers:
    found = lidar.lidar(vectors.views(), vectors.dim)
    return {"lidar": found, "views": float(vectors.views_each)}


def linear_cka(first: Vectors, second: Vectors) -> Numbers:
    both = cka.hsic(zip(first.blocks(), second.blocks(), strict=True))
    return cka.linear_cka(both, first.own_hsic, second.own_hsic)
