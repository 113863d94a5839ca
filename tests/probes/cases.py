"""The table behind `test_probes`: one row a probe, numbers from the specification.

Closed forms are written out here from the published definitions, in D, N, M and D_o; nothing is
taken from the code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.reference import probes as reference
from tests.reference import zoo


@dataclass(frozen=True)
class Case:
    """One probe.

    Attributes:
        spec: at the small size of the tests, D = 24 and N = 10.
        plain: tokens, parameters → descriptor and attention, project-first.
        parameters: pooling parameters as a function of D.
        macs: pooling multiply–adds per image as a function of D and N, pool-first.
        per_step: multiply–adds per step of folding keys.
        number: the specification's pooling parameters at D = 768, and of the whole probe with
            C = 1000, for ``published``.
        published: spec string at that size.
        unmoved: parameters whose gradient is exactly zero (a softmax sees no constant).
        normalised: whether each predictor's weights sum to 1.
    """

    spec: str
    plain: Callable
    parameters: Callable[[int], int]
    macs: Callable[[int, int], int]
    published: str
    number: tuple[int, int]
    per_step: Callable[[int], int] = lambda d: 0
    predictors: int = 0
    out_dim: int = 24
    unmoved: tuple[str, ...] = ()
    normalised: bool = True


def mhca(heads: int) -> Callable:
    return lambda x, p: reference.mhca(x, p, heads)


def aim(heads: int) -> Callable:
    def plain(tokens, p):
        norm = torch.nn.BatchNorm1d(tokens.shape[-1], affine=False, eps=1e-6).to(tokens)
        return reference.aim(tokens, p, heads, norm)  # a fresh batch norm is in training mode

    return plain


CASES = [
    Case(
        "linear",
        reference.linear,
        parameters=lambda d: 0,
        macs=lambda d, n: 0,
        published="linear",
        number=(0, 769_000),
    ),
    Case(
        "linear?input=mean",
        reference.linear,
        parameters=lambda d: 0,
        macs=lambda d, n: 0,
        published="linear?input=mean",
        number=(0, 769_000),
    ),
    Case(
        "mean_value",
        reference.mean_value,
        parameters=lambda d: d * d,
        macs=lambda d, n: d * d,
        published="mean_value",
        number=(589_824, 1_358_824),
    ),
    Case(
        "ep4",
        reference.ep,
        parameters=lambda d: d * d + 4 * d,
        macs=lambda d, n: 2 * n * 4 * d + d * d,
        published="ep32",
        number=(614_400, 1_383_400),
        predictors=4,
    ),
    Case(
        "ep1",
        reference.ep,
        parameters=lambda d: d * d + d,
        macs=lambda d, n: 2 * n * d + d * d,
        published="ep1",
        number=(590_592, 1_359_592),
        predictors=1,
    ),
    Case(
        "ep6?out_dim=12",
        reference.ep,
        parameters=lambda d: 12 * d + 6 * d,
        macs=lambda d, n: 2 * n * 6 * d + 12 * d,
        published="ep48?out_dim=96",
        number=(110_592, 207_592),
        predictors=6,
        out_dim=12,
    ),
    Case(
        "ep4?value=identity",
        reference.ep_identity,
        parameters=lambda d: 4 * d,
        macs=lambda d, n: 2 * n * 4 * d,
        published="ep12?value=identity",
        number=(9_216, 778_216),
        predictors=4,
    ),
    Case(
        "ep4?query=sliced",
        reference.ep_sliced,
        parameters=lambda d: d * d + d,
        macs=lambda d, n: 2 * n * 4 * d + d * d,
        published="ep12?query=sliced",
        number=(590_592, 1_359_592),
        predictors=4,
    ),
    Case(
        "mhca3",
        mhca(3),
        parameters=lambda d: 2 * d * d + d,
        macs=lambda d, n: 2 * n * 3 * d + d * d,
        published="mhca",
        number=(1_180_416, 1_949_416),
        per_step=lambda d: d * d,
        predictors=3,
    ),
    Case(
        "mhca4?attn_dim=8&out_dim=12",
        mhca(4),
        parameters=lambda d: 8 * d + 8 + 12 * d,
        macs=lambda d, n: 2 * n * 4 * d + 12 * d,
        published="mhca?attn_dim=768&out_dim=768",
        number=(1_180_416, 1_949_416),
        per_step=lambda d: 8 * d,
        predictors=4,
        out_dim=12,
    ),
    Case(
        "aim3",
        aim(3),
        parameters=lambda d: 2 * d * d + d,
        macs=lambda d, n: 2 * n * 3 * d + d * d,
        published="aim12",
        number=(1_180_416, 1_949_416),
        per_step=lambda d: d * d,
        predictors=3,
    ),
    Case(
        "abmilp",
        reference.abmilp,
        parameters=lambda d: d * d + 2 * d + 1,
        macs=lambda d, n: n * d * d + n * d + n * d,
        published="abmilp",
        number=(591_361, 1_360_361),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "abmilp?depth=1",
        reference.abmilp,
        parameters=lambda d: d + 1,
        macs=lambda d, n: n * d + n * d,
        published="abmilp?depth=1",
        number=(769, 769_769),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "abmilp?self_attention=true",
        reference.abmilp,
        parameters=lambda d: 5 * d * d + 3 * d + 1,
        macs=lambda d, n: 4 * n * d * d + 2 * n * n * d + n * d * d + n * d + n * d,
        published="abmilp?self_attention=true",
        number=(2_951_425, 3_720_425),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "abmilp?depth=1&self_attention=true",
        reference.abmilp,
        parameters=lambda d: 4 * d * d + 2 * d + 1,
        macs=lambda d, n: 4 * n * d * d + 2 * n * n * d + n * d + n * d,
        published="abmilp?depth=1&self_attention=true",
        number=(2_360_833, 3_129_833),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "block4",
        lambda x, p: zoo.block(x, p, 4),
        parameters=lambda d: 12 * d * d + 10 * d,
        macs=lambda d, n: 12 * n * d * d + 2 * n * n * d,
        published="block",
        number=(7_085_568, 7_854_568),
    ),
    Case(
        "delf",
        zoo.delf,
        parameters=lambda d: d * d + 4 * d + 1,
        macs=lambda d, n: n * d * d + n * d + n * d,
        published="delf",
        number=(592_897, 1_361_897),
        predictors=1,
        unmoved=("conv.bias",),
        normalised=False,
    ),
    Case(
        "cbam",
        lambda x, p: zoo.cbam(x, p, (2, 5)),
        parameters=lambda d: 2 * d * (d // 16) + 100,
        macs=lambda d, n: 4 * d * (d // 16) + 98 * n,
        published="cbam",
        number=(73_828, 842_828),
        predictors=1,
        normalised=False,
    ),
    Case(
        "slot4",
        lambda x, p: zoo.slot(x, p, 3),
        parameters=lambda d: 13 * d * d + (4 + 15) * d,
        macs=lambda d, n: 2 * n * d * d + 3 * (11 * 4 * d * d + 2 * n * 4 * d),
        published="slot",
        number=(7_685_376, 8_454_376),
        predictors=4,
        unmoved=("slot_norm.bias",),  # it shifts a token's scores for all slots alike
    ),
    Case(
        "slot1?iterations=1",
        lambda x, p: zoo.slot(x, p, 1),
        parameters=lambda d: 13 * d * d + 16 * d,
        macs=lambda d, n: 2 * n * d * d + 11 * d * d + 2 * n * d,
        published="slot1?iterations=1",
        number=(7_680_000, 8_449_000),
        predictors=1,
        # one slot wins every token, whatever the scores
        unmoved=("key.weight", "slot_norm.weight", "slot_norm.bias", "query.weight"),
    ),
]
