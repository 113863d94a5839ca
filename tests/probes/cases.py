"""The table behind `test_probes`: one row a probe, numbers from the specification.

Closed forms are written out here from the published definitions, in D, N, M and D_o; nothing is
taken from the code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.reference import folded, zoo
from tests.reference import probes as reference

N, GRID = 10, (2, 5)  # patches of the tests


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
        prefix: keys that the probe adds to the tokens itself.
        spread: standard deviation given to parameters, for attention that is far from uniform.
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
    prefix: int = 0
    spread: float = 0.7
    normalised: bool = True


def mhca(heads: int) -> Callable:
    return lambda x, p: reference.mhca(x, p, heads)


def with_heads(plain: Callable, heads: int) -> Callable:
    return lambda x, p: plain(x, p, heads)


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
        "logreg?C=1",
        reference.linear,
        parameters=lambda d: 0,
        macs=lambda d, n: 0,
        published="logreg",
        number=(0, 769_000),
    ),
    Case(
        "ridge?alpha=1",
        reference.linear,
        parameters=lambda d: 0,
        macs=lambda d, n: 0,
        published="ridge",
        number=(0, 769_000),
    ),
    Case(
        "max",
        reference.max_pool,
        parameters=lambda d: 0,
        macs=lambda d, n: 0,
        published="max",
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
        "simpool",
        with_heads(folded.simpool, 1),
        parameters=lambda d: 2 * d * d + 2 * d,
        macs=lambda d, n: 2 * n * d + 2 * d * d,
        published="simpool",
        number=(1_181_184, 1_950_184),
        predictors=1,
    ),
    Case(
        "simpool3",
        with_heads(folded.simpool, 3),
        parameters=lambda d: 2 * d * d + 2 * d,
        macs=lambda d, n: 2 * n * 3 * d + 2 * d * d,
        published="simpool12",
        number=(1_181_184, 1_950_184),
        predictors=3,
    ),
    Case(
        "simpool?linear=false",
        with_heads(folded.simpool, 12),
        parameters=lambda d: 2 * d,
        macs=lambda d, n: 2 * n * 12 * d,
        published="simpool?linear=false",
        number=(1_536, 770_536),
        predictors=12,
    ),
    Case(
        "clip",
        with_heads(folded.clip, 4),
        parameters=lambda d: 4 * d * d + (N + 7) * d,
        macs=lambda d, n: n * d + 4 * ((2 * n + 1) + 2 * (n + 1)) * d + 4 * d * d,
        published="clip",
        number=(2_515_200, 3_284_200),
        predictors=4,
        prefix=1,
    ),
    Case(
        "siglip",
        with_heads(folded.siglip, 8),
        parameters=lambda d: 12 * d * d + 10 * d,
        macs=lambda d, n: 2 * n * 8 * d + 2 * d * d + 8 * d * d,
        published="siglip",
        number=(7_085_568, 7_854_568),
        per_step=lambda d: 2 * d * d,
        predictors=8,
        spread=0.4,  # without a norm the scores would round to bfloat16 in steps of 0.1
    ),
    Case(
        "vjepa3",
        with_heads(folded.vjepa, 3),
        parameters=lambda d: 12 * d * d + 14 * d,
        macs=lambda d, n: 2 * n * 3 * d + 2 * d * d + 8 * d * d,
        published="vjepa",
        number=(7_088_640, 7_857_640),
        per_step=lambda d: 2 * d * d,
        predictors=3,
    ),
    Case(
        "vjepa3?proj=false",
        with_heads(folded.vjepa, 3),
        parameters=lambda d: 11 * d * d + 13 * d,
        macs=lambda d, n: 2 * n * 3 * d + d * d + 8 * d * d,
        published="vjepa?proj=false",
        number=(6_498_048, 7_267_048),
        per_step=lambda d: 2 * d * d,
        predictors=3,
    ),
    Case(
        "cait",
        with_heads(folded.cait, 4),
        parameters=lambda d: 12 * d * d + 18 * d,
        macs=lambda d, n: 2 * n * 4 * d + 2 * d * d + 8 * d * d,
        published="cait",
        number=(7_091_712, 7_860_712),
        per_step=lambda d: 2 * d * d + 4 * d,
        predictors=4,
        unmoved=("k.bias",),
        prefix=1,
    ),
    Case(
        "cae",
        with_heads(folded.cae, 8),
        parameters=lambda d: 4 * d * d + 8 * d,
        macs=lambda d, n: 2 * n * 8 * d + 2 * d * d,
        published="cae",
        number=(2_365_440, 3_134_440),
        per_step=lambda d: 2 * d * d,
        predictors=8,
        unmoved=("norm_k.bias",),
    ),
    Case(
        "coca2",
        with_heads(folded.coca, 2),
        parameters=lambda d: 2 * d + 2 * 2 * 64 * d + 2 * 64 * d,
        macs=lambda d, n: 2 * n * 2 * d + 2 * 64 * d + 2 * 64 * d,
        published="coca",
        number=(886_272, 1_655_272),
        per_step=lambda d: 2 * 64 * d + 2 * 64 * d,
        predictors=2,
    ),
    Case(
        "coca2?queries=5",
        with_heads(folded.coca, 2),
        parameters=lambda d: 6 * d + 2 * 2 * 64 * d + 2 * 64 * d,
        macs=lambda d, n: 2 * n * 2 * d + 2 * 64 * d + 2 * 64 * d,
        published="coca?queries=196",
        number=(1_036_032, 1_805_032),
        per_step=lambda d: 2 * 64 * d + 2 * 64 * d,
        predictors=2,
    ),
    Case(
        "capi3",
        with_heads(folded.capi, 3),
        parameters=lambda d: 2 * d * d + 3 * d,
        macs=lambda d, n: 2 * n * 3 * d + d * d,
        published="capi",
        number=(1_181_952, 1_950_952),
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
        "abmilp?gated=true",
        reference.abmilp,
        parameters=lambda d: 2 * (d * d + d) + d + 1,
        macs=lambda d, n: 2 * n * d * d + n * d + n * d,
        published="abmilp?gated=true",
        number=(1_181_953, 1_950_953),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "abmilp?gated=true&hidden=7",
        reference.abmilp,
        parameters=lambda d: 2 * (7 * d + 7) + 7 + 1,
        macs=lambda d, n: 2 * n * 7 * d + 7 * n + n * d,
        published="abmilp?gated=true&hidden=128",
        number=(196_993, 965_993),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "abmilp?gated=true&self_attention=true",
        reference.abmilp,
        parameters=lambda d: 6 * d * d + 4 * d + 1,
        macs=lambda d, n: 4 * n * d * d + 2 * n * n * d + 2 * n * d * d + n * d + n * d,
        published="abmilp?gated=true&self_attention=true",
        number=(3_542_017, 4_311_017),
        predictors=1,
        unmoved=("scorer.bias",),
    ),
    Case(
        "dsmil3?attn_dim=8",
        reference.dsmil,
        parameters=lambda d: 3 * d + 3 + 8 * d + 8,
        macs=lambda d, n: 3 * n * 3 * d + n * 3 * d + 2 * 3 * 8 * d,
        published="dsmil",
        number=(99_201, 99_201 + 770_000),
        predictors=6,
        out_dim=3 * 25,
        spread=0.4,
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
