"""The measures: what each tells, its range, its source, and what it needs. Imports no torch.

A measure is one entry here, its formula in a file of its own and what it reads of `Vectors` in `of_vectors.py`.
"""

from dataclasses import dataclass
from typing import Literal

from iceprobe.core.registry import Entry, Registry


class Undefined(Exception):
    """A measure has no value for these vectors; the text says why, in a clause."""


@dataclass(frozen=True)
class Measure(Entry):
    """One measure.

    Attributes:
        title: in tables.
        equation: its definition in a line.
        range: its values, in words.
        better: what is usually better for a linear probe: ``"high"``, ``"low"``, or in words.
        source: publication.
        pairwise: whether it compares two stores.
    """

    title: str
    equation: str
    range: str
    better: Literal["high", "low", "near 1", "–"]
    source: str
    pairwise: bool = False


MEASURES: Registry[Measure] = Registry(
    "measure",
    {
        "rankme": Measure(
            "iceprobe.measures.of_vectors:rankme",
            "how many dimensions the vectors use, as the entropy of their singular values",
            title="RankMe",
            equation="exp(−Σ p ln p), p = σ / Σσ + 1e-7, σ: singular values of the vectors, not centred",
            range="1 to D",
            better="high",
            source="Garrido et al. 2023",
        ),
        "participation": Measure(
            "iceprobe.measures.of_vectors:participation",
            "how many dimensions hold the variance",
            title="participation",
            equation="(Σλ)² / Σλ², λ: eigenvalues of the covariance",
            range="1 to D",
            better="high",
            source="Gao et al. 2017",
        ),
        "alpha": Measure(
            "iceprobe.measures.of_vectors:alpha",
            "how fast the eigenvalues of the covariance fall, with R² of the fitted power law",
            title="α-ReQ",
            equation="λ_i ∝ i^−α, fitted to ln λ_i over ln i from i = 4 to 100, weights 1/i",
            range="0 to ∞",
            better="near 1",
            source="Agrawal et al. 2022; the fit is their code's, of Stringer et al. 2019",
        ),
        "uniformity": Measure(
            "iceprobe.measures.of_vectors:uniformity",
            "how evenly the vectors are spread over the sphere",
            title="uniformity",
            equation="ln of the mean of exp(−2 ‖x − y‖²) over pairs of normalised vectors",
            range="about −4 where many are spread evenly, 0 where all are one",
            better="low",
            source="Wang & Isola 2020",
        ),
        "alignment": Measure(
            "iceprobe.measures.of_vectors:alignment",
            "how far apart two views of an example are; needs stored views",
            title="alignment",
            equation="mean of ‖x − x⁺‖² over pairs of normalised views of an example",
            range="0 to 4",
            better="low",
            source="Wang & Isola 2020",
        ),
        "lidar": Measure(
            "iceprobe.measures.of_vectors:lidar_rank",
            "how many dimensions tell examples apart beyond their views; needs stored views",
            title="LiDAR",
            equation="exp(−Σ p ln p), p = λ / Σλ + 1e-7, λ: eigenvalues of Σ_w^−½ Σ_b Σ_w^−½, "
            "Σ_b between examples, Σ_w within their views, plus 1e-4 I",
            range="1 to min(D, n − 1)",
            better="high",
            source="Thilak et al. 2023",
        ),
        "cka": Measure(
            "iceprobe.measures.of_vectors:linear_cka",
            "how alike two stores of the same examples are, whatever rotation lies between them",
            title="linear CKA",
            equation="‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), centred; cka_unbiased has HSIC without its bias",
            range="0 to 1",
            better="–",
            source="Kornblith et al. 2019; unbiased: Song et al. 2012, Nguyen et al. 2021",
            pairwise=True,
        ),
    },
)
