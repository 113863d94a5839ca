"""Examples of several lengths: padding changes nothing, whatever stands in it."""

import math
from itertools import cycle

import pytest
import torch
from torch import nn

from iceprobe.core.errors import IceprobeError
from iceprobe.machine import products
from iceprobe.probes import (
    PROBES,
    ComposedPooling,
    Queries,
    build,
    build_for,
    build_pooling,
    parse_probe,
    register,
)
from iceprobe.probes import attend as attention
from iceprobe.probes.attend import attend, attend_together, image_scores, log_attention
from iceprobe.probes.layer_norm import token_rstd
from iceprobe.probes.linear import Linear
from iceprobe.probes.masks import only_tokens
from iceprobe.probes.pooling import AttentivePooling, Pooling, QueryPooling
from iceprobe.probes.probe import Probe
from iceprobe.probes.regularisation import Regularisation
from iceprobe.tokens import JoinedShape, JoinedTokens, Tokens, TokenShape
from tests.probes.cases import CASES, GRID
from tests.reference import lengths as reference
from tests.reference.regularisation import penalty

D, C = 24, 5
LENGTHS = [3, 10, 1, 7]  # the first one isn't the longest
GARBAGE = [math.nan, math.inf, 1e30, -1e30]
RAGGED = [case for case in CASES if not PROBES[parse_probe(case.spec).name].one_length]
each = pytest.mark.parametrize("case", RAGGED, ids=lambda case: case.spec)
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
OVER_THE_BATCH = ("aim", "delf")  # have statistics of tokens in training


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pooling_of(case, training=True, dtype=torch.float64) -> Pooling:
    pooling = build_pooling(case.spec, D, GRID).to(dtype)
    with torch.no_grad():
        for name, tensor in [*pooling.named_parameters(), *pooling.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(std=case.spread)
    return pooling.train(training)


def examples_of(lengths=LENGTHS, dtype=torch.float64, mean=0.0) -> list[torch.Tensor]:
    return [(torch.randn(n, D) + mean).to(dtype) for n in lengths]


def padded(examples, garbage=GARBAGE) -> tuple[torch.Tensor, torch.Tensor]:
    """``(B, N, D)`` with one value of ``garbage`` after the other behind each example, and the mask."""
    most = max(map(len, examples)) + 2  # no example is as long as the batch
    tokens = examples[0].new_zeros(len(examples), most, D)
    mask = torch.zeros(len(examples), most, dtype=torch.bool)
    values = cycle(garbage)
    for row, of_row, example in zip(tokens, mask, examples, strict=True):
        for n in range(most):
            row[n] = example[n] if n < len(example) else next(values)
        of_row[: len(example)] = True
    return tokens, mask


def plain(case, pooling):
    """The plain formula on a list of examples."""
    name = parse_probe(case.spec).name
    if name not in OVER_THE_BATCH:
        return reference.one_by_one(case.plain)
    statistics = {
        t: b for t, b in pooling.named_buffers() if t.endswith(("running_mean", "running_var"))
    }
    running = None if pooling.training else tuple(t.clone() for t in statistics.values())
    return reference.aim(3, running) if name == "aim" else reference.delf(running)


def same(found, expected, rtol=1e-12):
    """To rounding: relative to the largest that is expected."""
    largest = max(float(expected.detach().abs().max()), 1e-3) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=rtol * largest)


def test_what_reads_no_mask_says_why():
    assert {name for name in PROBES if PROBES[name].one_length} == {"cbam", "clip"}
    assert {parse_probe(case.spec).name for case in RAGGED} == set(PROBES) - {"knn", "cbam", "clip"}


@each
@modes
@pytest.mark.parametrize("live", [False, True], ids=["cached", "live"])
def test_an_example_of_a_padded_batch_is_the_example_alone(case, training, live):
    """Descriptors, gradients of parameters and of tokens, attention: all by the plain formula."""
    pooling, examples = pooling_of(case, training), examples_of()
    parameters = dict(pooling.named_parameters())
    leaves = [example.requires_grad_() for example in examples]
    expected, maps = plain(case, pooling)(leaves, parameters)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(
        (expected * direction).sum(), [*leaves, *parameters.values()], allow_unused=True
    )

    tokens, mask = padded([example.detach() for example in examples])
    tokens.requires_grad_(live)
    if pooling.num_predictors:  # a look leaves running statistics alone
        weights = pooling.attention(tokens, mask).detach()
        added = pooling.prefix_attention(tokens, mask).detach()
        assert (weights.masked_select(~mask[:, None]) == 0).all()
        for row, more, real, alone in zip(weights, added, mask, maps, strict=True):
            same(torch.cat([more, row[:, real]], -1), alone.detach())
    found = pooling(tokens, mask)
    same(found, expected)
    asked = [*([tokens] if live else []), *parameters.values()]
    if not asked:
        return
    gradients = list(torch.autograd.grad((found * direction).sum(), asked))
    if live:
        of_tokens = gradients.pop(0)
        assert (of_tokens[~mask] == 0).all()
        same(of_tokens[mask], torch.cat(wanted[: len(leaves)]))
    largest = max([float(one.abs().max()) for one in wanted[len(leaves) :]], default=1.0)
    for name, one, other in zip(parameters, gradients, wanted[len(leaves) :], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * largest, msg=name)


@each
@modes
def test_what_stands_in_padding_changes_no_bit(case, training):
    examples, direction = examples_of(), torch.randn(4, case.out_dim).double()
    found = []
    for garbage in (GARBAGE, [0.0], [-math.inf, 7.0]):
        torch.manual_seed(1)
        pooling = pooling_of(case, training)
        tokens, mask = padded(examples, garbage)
        out = pooling(tokens, mask)
        parameters = list(pooling.parameters())
        gradients = torch.autograd.grad((out * direction).sum(), parameters) if parameters else ()
        found.append([out, *gradients, *(b.clone() for b in pooling.buffers())])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@each
def test_a_mask_without_padding_is_no_mask(case):
    pooling, tokens = pooling_of(case, training=False), torch.randn(3, 10, D).double()
    same(pooling(tokens, torch.ones(3, 10, dtype=torch.bool)), pooling(tokens))


@each
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_narrow_tokens(case, narrow, mean):
    """Under float32 parameters, of a mean that all tokens share as well; image 0 is mostly padding."""
    garbage = GARBAGE if narrow == torch.bfloat16 else [math.nan, math.inf, 6e4, -6e4]
    examples = examples_of([2, 10, 30, 30], narrow, mean)
    for training in (True, False):
        pooling = pooling_of(case, training, torch.float32)
        wide = build_pooling(case.spec, D, GRID).double().train(training)
        wide.load_state_dict(pooling.state_dict())
        parameters = dict(wide.named_parameters())
        expected, _ = plain(case, wide)([example.double() for example in examples], parameters)
        tokens, mask = padded(examples, garbage)
        found = pooling(tokens, mask)
        assert found.dtype == torch.float32
        centre = expected.detach().mean(0)
        tolerance = 0.03 if narrow == torch.bfloat16 else 0.006
        scale = (expected - centre).abs().max()
        assert (found.double() - expected).abs().max() < (1 + mean) * tolerance * scale
        if parameters:
            (found * torch.randn_like(found)).sum().backward()
            assert all(p.grad.isfinite().all() for p in pooling.parameters())


@each
def test_a_probe_in_bfloat16(case):
    """Parameters too, with gradients to the tokens: an adapted backbone."""
    probe = build(case.spec, D, C, GRID).bfloat16().eval()
    tokens, mask = padded(examples_of(dtype=torch.bfloat16))
    tokens.requires_grad_()
    logits = probe(tokens, mask)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert tokens.grad.isfinite().all()
    assert (tokens.grad[~mask] == 0).all()
    assert tokens.grad[mask].abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in probe.parameters())
    for row, real, one in zip(tokens.detach(), mask, logits.detach(), strict=True):
        alone = probe(row[real][None]).detach()[0]
        assert (alone - one).abs().max() <= 0.05 * alone.abs().max()


@each
def test_evidence_is_that_of_the_example_alone(case):
    probe = Probe(pooling_of(case, training=False), C, input=build(case.spec, D, C, GRID).input)
    probe = probe.double().eval()
    probe.norm.running_mean.normal_()
    if not probe.pooling.additive:
        return
    tokens, mask = padded(examples_of())
    found = probe.evidence(tokens, mask=mask)
    assert (found.masked_select(~mask[:, None]) == 0).all()
    logits = probe(tokens, mask).detach()
    same(found.sum(-1) + probe.classifier.bias.detach(), logits, 1e-11)
    for row, real, one in zip(tokens, mask, found, strict=True):
        same(one[:, real], probe.evidence(row[real][None])[0], 1e-11)


LINEAR_SCORES = [
    case for case in RAGGED if "complementarity" in PROBES[parse_probe(case.spec).name].options
]


@pytest.mark.parametrize("case", LINEAR_SCORES, ids=lambda case: case.spec)
@pytest.mark.parametrize(("complementarity", "entropy"), [(0.3, 0.0), (0.0, 0.2), (-0.3, 0.2)])
def test_penalties_are_means_over_the_examples_own(case, complementarity, entropy):
    pooling = pooling_of(case, training=False)
    if pooling.num_predictors == 1:
        complementarity = 0.0
    terms = Regularisation(complementarity, entropy)
    if not terms:
        return
    probe = Probe(pooling, C, regularisation=terms).double().eval()
    examples = [one.requires_grad_() for one in examples_of([3, 10, 2, 7])]
    expected = torch.stack(
        [penalty(pooling.attention(one[None]), complementarity, entropy) for one in examples]
    ).mean()
    tokens, mask = padded([one.detach() for one in examples])
    tokens.requires_grad_()
    found = probe.penalty(tokens, mask)
    same(found, expected)
    (gradient,) = torch.autograd.grad(found, tokens)
    assert (gradient[~mask] == 0).all()
    same(gradient[mask], torch.cat(torch.autograd.grad(expected, examples)), 1e-11)


def test_an_example_of_one_token_has_no_entropy_and_does_not_disturb():
    probe = Probe(build_pooling("ep4", D), C, regularisation=Regularisation(entropy=0.5)).double()
    tokens, mask = padded(examples_of([1, 5]))
    found = probe.penalty(tokens, mask)
    found.backward()
    same(found, probe.penalty(tokens[1:, :5]) / 2)
    assert probe.pooling.query.grad.isfinite().all()


@each
def test_an_example_without_tokens_spoils_no_other(case):
    """Also as image 0, whose mean shifts the scores of narrow tokens."""
    for dtype in (torch.float64, torch.bfloat16):
        pooling = pooling_of(case, False, torch.promote_types(dtype, torch.float32))
        examples = examples_of([0, 4, 6], dtype)
        found = pooling(*padded(examples)).detach()
        alone = pooling(*padded(examples[1:])).detach()
        same(found[1:], alone, 1e-12 if dtype == torch.float64 else 0.03)


# The inner functions


def product(tokens, queries, rstd, mask):
    """``Xᵀ softmax_N(X u_q)`` of each example, in float64."""
    found = []
    for x, real, r in zip(
        tokens, mask, [None] * len(tokens) if rstd is None else rstd, strict=True
    ):
        x = x[real].double() if r is None else x[real].double() * r[real].double()[:, None]
        found.append(torch.softmax(queries.double() @ x.T, -1) @ x)
    return torch.stack(found)


@pytest.mark.parametrize("way", ["few", "by image", "differentiated", "scored"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_implementation_of_attend(monkeypatch, way, normed, dtype):
    if way == "by image" and (
        dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        pytest.skip("products by oneDNN are in float32")
    tokens, mask = padded(examples_of(dtype=dtype, mean=2.0), [0.0])
    queries = [(torch.randn(m, D) * 0.3).to(dtype).requires_grad_() for m in (3, 2)]
    rstd = token_rstd(tokens, 1e-6) if normed else None
    monkeypatch.setattr(attention, "AT_ONCE", 1)  # one image at a time
    monkeypatch.setattr(products, "each_pays", lambda *a, **k: way == "by image")
    if way == "differentiated":
        tokens.requires_grad_()
    if way == "scored":
        wide = torch.cat(queries).float() if dtype == torch.bfloat16 else torch.cat(queries)
        weights = torch.softmax(image_scores(tokens, wide, rstd, mask), -1)
        torch.testing.assert_close(log_attention(tokens, wide, rstd, mask).exp(), weights)
        parts = attention.image_sums(tokens, weights, rstd).split([3, 2], 1)
    else:
        parts = attend_together(tokens, queries, rstd, mask)
    exact = [q.detach().double().requires_grad_() for q in queries]
    expected = product(tokens.detach(), torch.cat(exact), rstd, mask)
    direction = torch.randn(expected.shape).double()
    wanted = torch.autograd.grad((expected * direction).sum(), exact)
    found = torch.cat(parts, 1)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    assert gap(found, expected) < tolerance
    got = torch.autograd.grad((found * direction.to(found.dtype)).sum(), queries)
    assert gap(torch.cat(got), torch.cat(wanted)) < 4 * tolerance


@pytest.fixture
def narrow_products(monkeypatch):
    """Products in the dtype of the tokens, as on a GPU."""
    monkeypatch.setattr(attention, "_product_dtype", lambda tokens: tokens.dtype)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_mean_shared_by_all_tokens_costs_no_precision(narrow_products, narrow):
    """It is measured on example 0, of which only one row in fifty is a token."""
    tokens, mask = padded(examples_of([1, 48, 30, 40], narrow, mean=5.0), [0.0])
    queries = (torch.randn(6, D) * 0.2 + 0.3).to(narrow).float()
    expected = product(tokens, queries, None, mask)
    means = torch.stack([x[real].double().mean(0) for x, real in zip(tokens, mask, strict=True)])
    spread = (expected - means[:, None]).abs().max()
    assert (attend(tokens, queries, None, mask).double() - expected).abs().max() < 0.03 * spread


def test_a_deviation_that_no_narrow_number_holds(narrow_products):
    """r = 1/√ε of padding is larger than float16 has numbers: infinite times the weight 0."""
    tokens, mask = padded(examples_of(dtype=torch.float16), [0.0])
    queries = torch.randn(3, D).half().requires_grad_()
    rstd = token_rstd(tokens, 1e-11)
    assert rstd.max() > torch.finfo(torch.float16).max
    pooled = attend(tokens, queries, rstd, mask)
    pooled.float().sum().backward()
    assert pooled.isfinite().all()
    assert queries.grad.isfinite().all()


def gap(one, other):
    return float((one.double() - other).detach().norm() / other.detach().norm())


# Statistics of a batch in pieces


@pytest.mark.parametrize("live", [False, True])
def test_statistics_of_pieces_are_those_of_the_whole_batch(live):
    pooling = build_pooling("aim3", D).double().train()
    examples = examples_of([3, 10, 1, 7, 7, 2], mean=40.0)
    rows = torch.cat(examples)
    variance, mean = torch.var_mean(rows, 0, correction=0)
    pieces = [padded(examples[:3]), padded(examples[3:5]), (examples[5][None], None)]
    for tokens, _ in pieces:
        tokens.requires_grad_(live)
    found = pooling.token_stats_of(pieces)
    same(found.mean, mean)
    same(found.variance, variance, 1e-11)
    assert found.num_tokens == len(rows) == 30
    same(found.rstd, (variance + 1e-6).rsqrt(), 1e-11)
    if live:
        (gradient,) = torch.autograd.grad(found.variance.sum(), pieces[0][0])
        mask = pieces[0][1]
        assert (gradient[~mask] == 0).all()
        same(gradient[mask], (2 * (rows - mean) / 30)[:14], 1e-11)
    pooling.update_stats(found)
    norm = nn.BatchNorm1d(D, affine=False).double()
    norm(rows)
    same(pooling.running_mean, norm.running_mean)
    same(pooling.running_var, norm.running_var, 1e-11)


def test_one_piece_without_padding_is_what_it_always_was():
    pooling, tokens = build_pooling("aim3", D).train(), torch.randn(4, 10, D)
    by_pieces, plain = pooling.token_stats_of([(tokens, None)]), pooling.token_stats(tokens)
    rows = tokens.flatten(0, 1)
    mean, variance = torch.batch_norm_update_stats(rows, torch.zeros(D), torch.ones(D), 0.0)
    for found in (by_pieces, plain):
        assert torch.equal(found.mean, mean)
        assert torch.equal(found.variance, variance)
        assert found.num_tokens == 40
    assert build_pooling("ep4", D).token_stats_of([(tokens, None)]) is None


# Probes: what they read, and the mask of it


def masked_tokens(lengths=LENGTHS) -> Tokens:
    patches, mask = padded(examples_of(lengths))
    prefix = torch.randn(len(lengths), 2, D).double()
    return Tokens(patches, prefix, has_class=True, mask=mask)


def alone(tokens: Tokens, i: int) -> Tokens:
    """Example i without padding."""
    real = tokens.mask[i]
    return Tokens(tokens.patches[i : i + 1, real], tokens.prefix[i : i + 1], has_class=True)


@pytest.mark.parametrize(
    "spec",
    ["linear?input=mean", "linear?input=class", "mean_value", "ep4", "ep4?input=class+patches",
     "ep4?input=prefix+patches", "delf?input=class+patches", "block4?input=prefix+patches",
     "linear?input=class+mean", "ep2?complementarity=0.2&entropy=0.1"],
)  # fmt: skip
def test_a_probe_reads_the_mask_of_its_tokens(spec):
    tokens = masked_tokens([3, 10, 2, 7])
    probe = build(spec, D, C, has_class=True).double().eval()
    logits = probe(tokens)
    for i in range(4):
        same(probe(alone(tokens, i)), logits[i : i + 1])
    same(
        probe.penalty(tokens),
        torch.stack([probe.penalty(alone(tokens, i)) for i in range(4)]).mean(),
    )
    if probe.pooling.additive and (probe.read.of_tokens or probe.on_mean):
        found = probe.evidence(tokens)
        same(found.sum(-1) + probe.classifier.bias, logits, 1e-11)
        for i in range(4):
            one = probe.evidence(alone(tokens, i))[0]
            same(found[i, :, : one.shape[-1]], one, 1e-11)
            assert (found[i, :, one.shape[-1] :] == 0).all()
    if probe.pooling.num_predictors:
        weights = probe.attention(tokens)
        for i in range(4):
            one = probe.attention(alone(tokens, i))[0]
            same(weights[i, :, : one.shape[-1]], one)
            assert (weights[i, :, one.shape[-1] :] == 0).all()


@pytest.mark.parametrize(
    "spec", ["ep4?layers=0,1", "ep4?input=prefix+patches&layers=1,0", "ep4?join=width&layers=0,1",
             "linear?input=mean&layers=0,1", "linear?input=mean&layers=1"],
)  # fmt: skip
def test_layers_side_by_side(spec):
    first = masked_tokens()
    other = Tokens(first.patches.flip(2), first.prefix, has_class=True, mask=first.mask)
    both = JoinedTokens.of({0: other, 1: first})
    shape = JoinedShape.of({0: other.shape, 1: first.shape}, 2)
    assert shape.ragged
    probe = build_for(shape, spec, C).double().eval()
    logits = probe(both)
    for i in range(4):
        one = JoinedTokens.of({0: alone(other, i), 1: alone(first, i)})
        same(probe(one), logits[i : i + 1])
    if spec.endswith("layers=1"):  # evidence of the patches whose mean it reads
        same(probe.evidence(both).sum(-1) + probe.classifier.bias, logits, 1e-11)
    if probe.pooling.num_predictors:
        maps = probe.on_patches(probe.attention(both), first.patches.shape[1])
        assert (maps.masked_select(~first.mask[:, None]) == 0).all()


def test_a_mask_that_would_be_lost_is_not():
    tokens, probe = masked_tokens(), build("ep4", D, C).double()
    with pytest.raises(IceprobeError, match=r"take read_tokens\(tokens\)"):
        probe.select(tokens)
    with pytest.raises(IceprobeError, match="Tokens have their own mask"):
        probe(tokens, tokens.mask)
    read = probe.read_tokens(tokens.patches, tokens.mask)
    assert [torch.equal(a, b) for a, b in zip(read[1:], [tokens.mask], strict=True)] == [True]
    assert len(probe.read_tokens(torch.zeros(2, 3, D))) == 1


@pytest.mark.parametrize(
    "mask",
    [torch.ones(4, 11, dtype=torch.bool), torch.ones(4, 12), torch.ones(12, dtype=torch.bool)],
)
def test_a_mask_of_another_kind_is_one_line(mask):
    with pytest.raises(IceprobeError, match=r"a mask is bool \(4, 12\), True where") as caught:
        build_pooling("ep4", D)(torch.zeros(4, 12, D), mask)
    assert "\n" not in str(caught.value)


# What can't


def ragged(grid=None) -> TokenShape:
    return TokenShape(D, 8, 0, grid, False, lengths=(2, 1900))


@pytest.mark.parametrize(
    ("spec", "why"),
    [("cbam", "it convolves the map"), ("clip4", "it learns a position for each token")],
)
def test_probes_of_one_length_refuse(spec, why):
    with pytest.raises(IceprobeError) as caught:
        build_for(ragged(), spec, C)
    assert str(caught.value) == (
        f"probe {spec!r} reads examples of one number of tokens, since {why}"
        f"{' of an image’s patches'.replace('’', chr(39)) if spec == 'cbam' else ''}"
        ", and these have 2 to 1,900: take one for any number, such as ep32"
    )
    assert build_for(ragged(), "ep32?out_dim=96", C).pooling.num_predictors == 32
    pooling, (tokens, mask) = build_pooling(spec, D, GRID), padded(examples_of([10, 10]))
    with pytest.raises(IceprobeError, match=f"reads no mask: {why}.*such as ep32"):
        pooling(tokens[:, :10], mask[:, :10])


def test_grids_of_other_axes():
    tokens = torch.randn(2, 12, D)
    for grid in ((2, 3, 2), (12,)):
        assert build("clip", D, C, grid)(tokens).shape == (2, C)
        with pytest.raises(
            IceprobeError, match=f"rows and columns and the grid is {'x'.join(map(str, grid))}"
        ):
            build("cbam", D, C, grid)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(PROBES, "_entries", dict(PROBES._entries))


class Old(Linear):
    """As somebody wrote it before there were masks."""

    def forward(self, tokens):
        return tokens.mean(1)


class OldScores(AttentivePooling):
    """Likewise: it scores by the first channel."""

    num_predictors = 1

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def scores(self, tokens):
        return tokens[..., :1].mT

    def values(self, pooled):
        return pooled[:, 0]


def old(dim: int) -> Pooling:
    return Old(dim)


def old_scores(dim: int) -> Pooling:
    return OldScores(dim)


def per_token(dim: int) -> Pooling:
    return ComposedPooling(nn.Sequential(nn.Linear(dim, 2), Transposed()), dim, 2)


def mixing(dim: int) -> Pooling:
    class Contrast(nn.Module):
        def forward(self, tokens):
            return (tokens - tokens.mean(1, keepdim=True))[..., :2].mT

    return ComposedPooling(Contrast(), dim, 2)


def dropping(dim: int) -> Pooling:
    return ComposedPooling(nn.Sequential(nn.Dropout(0.5), nn.Linear(dim, 2), Transposed()), dim, 2)


def mixing_masked(dim: int) -> Pooling:
    class Contrast(nn.Module):
        def forward(self, tokens, mask=None):
            rows = torch.ones(tokens.shape[:2]).to(tokens) if mask is None else mask.to(tokens)
            mean = (tokens * rows[..., None]).sum(1, keepdim=True) / rows.sum(1)[:, None, None]
            return (tokens - mean)[..., :2].mT

    return ComposedPooling(Contrast(), dim, 2)


class Transposed(nn.Module):
    def forward(self, scores):
        return scores.mT


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (old, "forward of Old has no argument mask"),
        (old_scores, "scores of OldScores has no argument mask"),
        (
            mixing,
            "its predictor scores a token by others, padding among them; give it an argument mask",
        ),
        (per_token, None),
        (mixing_masked, None),
    ],
)
def test_poolings_of_ones_own(own_registry, target, message):
    register("own", target, "of one's own")
    shape = TokenShape(D, 8, 0, None, False)
    plain = build_for(shape, "own", C).double().eval()
    whole = torch.randn(2, 8, D).double()
    assert plain(whole).shape == (2, C)
    if message is not None:
        with pytest.raises(IceprobeError, match=message) as caught:
            build_for(ragged(), "own", C)
        assert "\n" not in str(caught.value)
        return
    probe = build_for(ragged(), "own", C, seed=3).double().eval()
    tokens, mask = padded(examples_of())
    logits = probe(tokens, mask)
    for row, real, one in zip(tokens, mask, logits, strict=True):
        same(probe(row[real][None])[0], one)


def test_a_dropout_in_a_predictor_is_no_padding(own_registry):
    register("own", dropping, "drops channels")
    build_for(ragged(), "own", C)


@pytest.mark.parametrize(
    "normalise",
    ["tokens", "predictors", "sigmoid", "none", lambda s: s.softmax(-1), torch.sigmoid,
     lambda s: s.softmax(1), torch.relu],
)  # fmt: skip
@pytest.mark.parametrize("value", ["linear", "identity", "mean"])
def test_composed_poolings(normalise, value):
    pooling = ComposedPooling(Queries(D, 4), D, 4, normalise=normalise, value=value).double()
    with torch.no_grad():
        pooling.predictor.query.normal_()
    tokens, mask = padded(examples_of())
    tokens.requires_grad_()
    found, weights = pooling(tokens, mask), pooling.attention(tokens, mask)
    probe = Probe(pooling, C).double().eval()
    probe.norm.running_mean.normal_()  # constants, which are spread over tokens
    evidence = probe.evidence(tokens, mask=mask)
    (gradient,) = torch.autograd.grad(found.sum(), tokens, retain_graph=True)
    (of_query,) = torch.autograd.grad(found.sum(), pooling.predictor.query)
    assert (gradient[~mask] == 0).all()
    assert (weights.masked_select(~mask[:, None]) == 0).all()
    assert (evidence.masked_select(~mask[:, None]) == 0).all()
    total = torch.zeros_like(of_query)
    for i, (row, real) in enumerate(zip(tokens.detach(), mask, strict=True)):
        one = row[real][None].requires_grad_()
        same(found[i], pooling(one)[0])
        same(weights[i][:, real], pooling.attention(one)[0])
        same(evidence[i][:, real], probe.evidence(one)[0], 1e-11)
        same(gradient[i, real], torch.autograd.grad(pooling(one).sum(), one)[0][0], 1e-11)
        total += torch.autograd.grad(pooling(one).sum(), pooling.predictor.query)[0]
    same(of_query, total, 1e-11)


def test_the_framework_and_the_shared_product_are_one_function_of_masked_tokens():
    for case in LINEAR_SCORES:
        pooling = pooling_of(case, training=False)
        assert isinstance(pooling, QueryPooling)
        tokens, mask = padded(examples_of())
        same(pooling(tokens, mask), AttentivePooling.forward(pooling, tokens, mask), 1e-11)


def test_only_tokens_stops_what_comes_from_padding():
    tokens, mask = padded(examples_of())
    tokens.requires_grad_()
    clean = only_tokens(tokens, mask)
    assert (clean[~mask] == 0).all()
    assert torch.equal(clean[mask], tokens[mask])
    (clean * torch.where(mask[..., None], 1.0, torch.nan)).nansum().backward()
    clean = only_tokens(tokens, mask)
    (gradient,) = torch.autograd.grad(clean, tokens, torch.full_like(clean, torch.nan))
    assert (gradient[~mask] == 0).all()
    assert only_tokens(tokens, None) is tokens
