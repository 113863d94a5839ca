"""What probes read of several layers, by the tokens themselves."""

import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import PROBES, build, build_for, probe_label, register
from iceprobe.probes.inputs import Input, input_of, layers_named, names_layers
from iceprobe.tokens import JoinedShape, JoinedTokens, Tokens, TokenShape

SHAPE = TokenShape(8, 9, 2, (3, 3), True)
LAST = TokenShape(8, 9, 2, (3, 3), True, {"pooled": 5})
JOINED = JoinedShape.of({2: SHAPE, 3: LAST}, depth=4)


def tokens(**vectors: torch.Tensor) -> Tokens:
    return Tokens(torch.randn(2, 9, 8), torch.randn(2, 2, 8), (3, 3), True, vectors)


@pytest.fixture
def both() -> JoinedTokens:
    torch.manual_seed(0)
    return JoinedTokens.of({2: tokens(), 3: tokens(pooled=torch.randn(2, 5))})


CASES = {
    "linear?layers=-2,-1": lambda a, b: torch.cat([a.prefix[:, :1], b.prefix[:, :1]], 2),
    "linear?input=class+mean&layers=-2,-1": lambda a, b: torch.cat(
        [a.prefix[:, 0], b.prefix[:, 0], b.patches.mean(1)], 1
    )[:, None],
    "linear?input=mean&layers=3,2": lambda a, b: torch.cat(
        [b.patches.mean(1), a.patches.mean(1)], 1
    )[:, None],
    "linear?input=class+pooled&layers=2,3": lambda a, b: torch.cat(
        [a.prefix[:, 0], b.prefix[:, 0], b.vectors["pooled"]], 1
    )[:, None],
    "linear?layers=2": lambda a, b: a.prefix[:, :1],
    "ep4?layers=-2,-1": lambda a, b: torch.cat([a.patches, b.patches], 1),
    "ep4?join=width&layers=-2,-1": lambda a, b: torch.cat([a.patches, b.patches], 2),
    "ep4?input=prefix+patches&layers=2,3": lambda a, b: torch.cat(
        [a.prefix, a.patches, b.prefix, b.patches], 1
    ),
    "ep4?input=class+patches&join=width&layers=2,3": lambda a, b: torch.cat(
        [torch.cat([t.prefix[:, :1], t.patches], 1) for t in (a, b)], 2
    ),
}


@pytest.mark.parametrize("label", CASES)
def test_layers_side_by_side(both, label):
    probe = build_for(JOINED, label, 3)
    expected = CASES[label](both.layers[2], both.layers[3])
    assert torch.equal(probe.select(both), expected)
    assert probe(both).shape == (2, 3)
    read = Input.parse(probe.input)
    assert str(read) == probe.input
    assert (read.count(JOINED), read.width(JOINED)) == expected.shape[1:]
    assert probe.tokens_read(9, 2) == expected.shape[1] or not read.of_tokens
    assert probe_label(label) == label


@pytest.mark.parametrize("name", [name for name in PROBES if "join" in PROBES[name].options])
def test_every_attentive_probe_reads_layers_in_width_and_as_tokens_or_says_why(both, name):
    shape = JoinedShape.of({i: TokenShape(192, 9, 2, (3, 3), True) for i in (2, 3)}, 4)
    given = JoinedTokens.of(
        {i: Tokens(torch.randn(2, 9, 192), torch.randn(2, 2, 192), (3, 3), True) for i in (2, 3)}
    )
    wide = build_for(shape, f"{name}?join=width&layers=2,3", 3)
    assert wide.select(given).shape == (2, 9, 384)
    assert wide(given).shape == (2, 3)
    if PROBES[name].needs_grid:
        with pytest.raises(IceprobeError, match=r"has one token a place of the grid.*join=width"):
            build_for(shape, f"{name}?layers=2,3", 3)
    else:
        more, one = (build_for(shape, f"{name}?layers={text}", 3) for text in ("2,3", "3"))
        assert more.select(given).shape == (2, 18, 192)
        assert more.num_parameters() == one.num_parameters()
        assert more(given).shape == (2, 3)


def test_weights_on_patches_are_summed_over_layers(both):
    probe = build_for(JOINED, "ep4?input=prefix+patches&layers=2,3", 3).eval()
    weights = probe.attention(both)  # (B, M, 2·(2 + 9))
    assert weights.shape == (2, 4, 22)
    assert torch.allclose(
        probe.on_patches(weights, 9), weights[..., 2:11] + weights[..., 13:22], rtol=0, atol=1e-7
    )
    alone = build_for(SHAPE, "ep4?input=prefix+patches", 3).eval()
    assert torch.equal(alone.on_patches(weights[..., :11], 9), weights[..., 2:11])


@pytest.mark.parametrize(
    ("shape", "probe", "message"),
    [
        (SHAPE, "linear?layers=-1", "names layers and these tokens are of one layer: fit it by iceprobe"),
        (SHAPE, "ep4?join=width", "joins layers and names none: take layers=-2,-1 as well"),
        (JOINED, "ep4", r"names no layers .* write ep4\?layers=3 for one of them"),
        (JOINED, "linear?join=width", "unknown option of 'linear' 'join'.*layers"),
        (JOINED, "linear?layers=", "write layers by their numbers, such as -2,-1"),
        (JOINED, "linear?layers=1.5", "write layers by their numbers"),
        (JOINED, "linear?input=class+class", "or several as class[+]mean, each once"),
        (JOINED, "linear?input=class+patches", "or several as class[+]mean, each once"),
        (JOINED, "ep4?input=class+mean", "write patches or class[+]patches or prefix[+]patches"),
        (
            TokenShape(8, 9, 0, None, False),
            "linear?input=class+mean",
            "the backbone has no class token: take input=mean",
        ),
        (
            JoinedShape.of({0: TokenShape(8, 9, 0, (3, 3), False), 1: TokenShape(16, 4, 0, (2, 2), False)}, 2),
            "ep4?layers=0,1",
            "can't be joined by join=tokens, they are 9 of width 8, 4 of width 16: name one layer",
        ),
        (
            JoinedShape.of({0: TokenShape(8, 9, 0, (3, 3), False), 1: TokenShape(16, 4, 0, (2, 2), False)}, 2),
            "ep4?layers=0,1&join=width",
            "can't be joined by join=width",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(shape, probe, message):
    with pytest.raises(IceprobeError, match=message) as error:
        build_for(shape, probe, 3)
    assert "\n" not in str(error.value)


def test_vectors_of_layers_may_differ_in_width():
    shapes = {0: TokenShape(8, 9, 0, (3, 3), False), 1: TokenShape(16, 4, 0, (2, 2), False)}
    read = input_of(JoinedShape.of(shapes, 2), "linear?layers=-2,-1")
    assert (str(read), read.width(JoinedShape.of(shapes, 2))) == ("mean@0,1", 24)


def test_tokens_without_a_layer_are_named(both):
    probe = build_for(JOINED, "linear?layers=2,3", 3)
    with pytest.raises(IceprobeError, match="got tokens without layer 3: pass JoinedTokens"):
        probe(JoinedTokens.of({2: both.layers[2]}))
    with pytest.raises(IceprobeError, match="got tokens without layer 2"):
        probe(both.layers[2])


def test_layers_are_found_in_labels():
    assert layers_named(["linear", "ep4?layers=-2,-1", "knn?layers=-1,0"]) == [-2, -1, 0]
    assert [names_layers(one) for one in ("ep4", "ep4?layers=3")] == [False, True]
    assert build("linear?input=class+mean", 8, 3, has_class=True).classifier.in_features == 16


def test_a_registered_probe_may_have_layers_of_its_own():
    from iceprobe.probes.linear import Linear

    def stacked(dim: int, layers: int = 2) -> Linear:
        assert layers == 3
        return Linear(dim)

    register("stacked", stacked, "an argument called layers")
    try:
        assert "join" not in PROBES["stacked"].options
        assert build("stacked?layers=3", 8, 3).input == "patches"
        assert not names_layers("stacked?layers=3")
    finally:
        PROBES._entries.pop("stacked")
