"""The whole probe: what it reads, its normalisation, its names and its error messages."""

import subprocess
import sys

import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec
from iceprobe.probes import PROBES, build, build_pooling, parse_probe, probe_label
from iceprobe.tokens import Tokens

B, N, P, D, C = 3, 10, 2, 24, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    return Tokens(torch.randn(B, N, D), torch.randn(B, P, D), has_class=True)


def test_a_probe_is_pooling_batch_norm_and_a_linear_map(tokens):
    probe = build("ep4?out_dim=12", D, C)
    y = probe.pooling(tokens.patches)
    y = (y - y.mean(0)) / (y.var(0, correction=0) + 1e-6).sqrt()
    expected = y @ probe.classifier.weight.T + probe.classifier.bias
    torch.testing.assert_close(probe(tokens), expected)


def test_batch_norm_can_be_left_out(tokens):
    probe = build("ep4?batch_norm=false", D, C)
    expected = probe.classifier(probe.pooling(tokens.patches))
    assert torch.equal(probe(tokens), expected)


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("patches", lambda t: t.patches),
        ("class+patches", lambda t: torch.cat([t.prefix[:, :1], t.patches], 1)),
        ("prefix+patches", lambda t: torch.cat([t.prefix, t.patches], 1)),
    ],
)
def test_inputs_of_attentive_probes(tokens, source, keys):
    probe = build("ep4", D, C, has_class=True, input=source).eval()
    assert torch.equal(probe.select(tokens), keys(tokens))
    assert torch.equal(probe(tokens), probe(keys(tokens)))
    num_keys = keys(tokens).shape[1]
    assert probe.flops(N, P) == 2 * (probe.pooling.macs(num_keys) + D * C)


def test_inputs_of_linear(tokens):
    by_class, by_mean = build("linear", D, C, has_class=True), build("linear?input=mean", D, C)
    assert (by_class.input, by_mean.input) == ("class", "mean")
    assert build("linear", D, C).input == "mean"
    assert torch.equal(by_class.select(tokens), tokens.prefix[:, :1])
    mean = tokens.patches.mean(1)
    torch.testing.assert_close(by_mean.select(tokens)[:, 0], mean)
    torch.testing.assert_close(by_mean(tokens), by_mean(mean))
    torch.testing.assert_close(by_class(tokens), by_class(tokens.prefix[:, 0]))


def test_the_mean_keeps_the_precision_of_wide_tokens():
    tokens = Tokens(torch.randn(B, N, D).double(), torch.zeros(B, 0, D).double())
    selected = build("mean_value", D, C).select(tokens)
    assert torch.equal(selected[:, 0], tokens.patches.mean(1))


def test_tokens_that_lack_the_input():
    bare = Tokens(torch.randn(B, N, D), torch.zeros(B, 0, D))
    with pytest.raises(IceprobeError, match="without a class token: take input=mean"):
        build("linear", D, C, has_class=True)(bare)
    with pytest.raises(IceprobeError, match="without a class token: take input=patches"):
        build("ep4?input=class%2Bpatches".replace("%2B", "+"), D, C, has_class=True)(bare)
    with pytest.raises(IceprobeError, match=r"shape \(3, 24\): pass \(B, N, D\)"):
        build("ep4", D, C)(torch.randn(B, D))
    with pytest.raises(IceprobeError, match=r"shape \(3, 10, 24\): pass \(B, D\)"):
        build("linear", D, C, has_class=True)(bare.patches)


@pytest.mark.parametrize("spec", ["linear?input=class", "ep4?input=class+patches"])
def test_a_backbone_without_class_token_is_refused_when_building(spec):
    with pytest.raises(IceprobeError, match="no class token"):
        build(spec, D, C, has_class=False)


def test_options_from_python_and_from_text_are_one():
    a = build_pooling("ep4?out_dim=12&value=linear", D)
    b = build_pooling("ep", D, queries=4, out_dim=12)
    c = build_pooling(Spec(None, "ep", {"queries": "4", "out_dim": "12"}), D)
    for pooling in (b, c):
        assert [p.shape for p in pooling.parameters()] == [p.shape for p in a.parameters()]
    assert build("ep4", D, C, batch_norm=False).norm.__class__ is torch.nn.Identity


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("ep", "ep32"),
        ("ep032", "ep32"),
        ("ep?queries=32", "ep32"),
        ("ep32?query=full&value=linear", "ep32"),
        ("ep48?out_dim=96", "ep48?out_dim=96"),
        ("aim", "aim12"),
        ("mhca?heads=4&attn_dim=96", "mhca4?attn_dim=96"),
        ("linear?input=mean", "linear?input=mean"),
        ("abmilp?self_attention=TRUE&depth=2", "abmilp?self_attention=true"),
        ("ep8?batch_norm=False&input=class+patches", "ep8?batch_norm=false&input=class+patches"),
        ("knn", "knn"),
    ],
)
def test_labels(text, label):
    assert probe_label(text) == label
    assert probe_label(parse_probe(text)) == label
    assert parse_probe(label) == parse_probe(text)


def test_parse_probe_puts_the_number_under_its_key():
    assert parse_probe("ep32") == Spec(None, "ep", {"queries": "32"})
    assert parse_probe("aim12") == Spec(None, "aim", {"heads": "12"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mhac12", "unknown probe 'mhac'. Did you mean mhca or max?"),
        ("lienar", "unknown probe 'lienar'. Did you mean linear?"),
        ("4", "unknown probe '4'"),
        ("linear3", "takes no number"),
        ("ep0", "write a whole number of at least 1"),
        ("ep4?queries=8", "queries is given twice"),
        (
            "ep4?quereis=8",
            "Did you mean queries or query? There are: batch_norm, complementarity, entropy, input,",
        ),
        (
            "ep4?heads=8",
            "There are: batch_norm, complementarity, entropy, input, join, layers, out_dim, queries, query, value.",
        ),
        ("ep4?value=none", "write linear or identity"),
        ("ep4?input=class", "write patches or class+patches or prefix+patches"),
        ("ep4?out_dim=-3", "write a whole number of at least 1"),
        ("ep4?out_dim=x", "write a whole number of at least 1"),
        ("abmilp?depth=3", "write 1 or 2"),
        ("abmilp?self_attention=yes", "write true or false"),
        ("timm:ep32", "write 'ep32'"),
        ("ep10", "nearest that does is ep12"),
        ("ep5?out_dim=100&value=identity", "value=identity"),
        ("ep9?query=sliced&out_dim=9", "9 does not divide dim=768"),
        ("mhca7", "7 does not divide out_dim=768; the nearest that does is mhca8"),
        ("mhca12?attn_dim=32", "does not divide attn_dim=32; the nearest that does is mhca16"),
        ("aim1000", "nearest that does is aim768"),
        ("knn", "training-free"),
    ],
)
def test_wrong_words_are_answered_in_one_line(text, message):
    with pytest.raises(IceprobeError) as caught:
        build(text, 768, C)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_checked_without_torch():
    code = (
        "import sys; from iceprobe.probes import PROBES, parse_probe, probe_label;"
        "probe_label('ep48?out_dim=96'); list(PROBES); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_entry_tells_what_it_is():
    for name in PROBES:
        entry = PROBES[name]
        assert entry.summary
        assert entry.equation
        assert entry.source
        assert entry.number is not None or entry.default_number is None
        assert entry.number is None or entry.number in entry.options
