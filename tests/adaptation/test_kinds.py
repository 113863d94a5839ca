"""Clips, images of their own shape, bags and recordings: what passes the backbone, and what learns."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from iceprobe.adaptation.model import Adapted
from iceprobe.adaptation.steps import MicroBatch, backward
from iceprobe.adaptation.trainable import root
from iceprobe.backbones import Backbone, NativePreprocessing, load_backbone, parts
from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.optimisers import build_optimizer
from iceprobe.probes.probe import build_for
from iceprobe.tasks.classification import Classification
from iceprobe.tokens import Tokens

from . import models
from .kinds import CASES, batch, data

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

COUNT = 7
EXACT = dict(atol=1e-9, rtol=1e-9)
cases = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, tuple[Backbone, Inputs]]:
    """Each backbone with a batch of examples; two classes take turns."""
    found = {}
    for number, (name, load) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(str(number))
        backbone = load(folder)
        examples = data(backbone.preprocessing.kind, folder, COUNT, 1).splits["train"]
        found[name] = backbone, batch(backbone, examples, COUNT)
    return found


def double(found: tuple[Backbone, Inputs]) -> tuple[Backbone, Inputs]:
    of, inputs = found
    of = copy.copy(of)
    of._modules = {"reader": copy.deepcopy(of.reader).double()}
    return of, inputs.to(torch.float64)


def adapted(adaptation: str, of: Backbone, probe: str = "linear") -> Adapted:
    with torch.random.fork_rng():
        built = build_for(of.shape, probe, 2, seed=0, task=Classification())
        return Adapted(of, adaptation, built.to(of._like.dtype))


def labels(count: int = COUNT) -> torch.Tensor:
    return torch.arange(count) % 2


def gradients(model: Adapted) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def loss_of_parts(model: Adapted, inputs: Inputs) -> torch.Tensor:
    """The mean over clips that are read each by itself, cut by hand; otherwise over examples."""
    tokens, parts = model.tokens(inputs), model.probe.parts
    if parts == 1:
        return cross_entropy(model.probe(tokens), labels())
    cut = tokens.patches.unflatten(1, (parts, -1)).flatten(0, 1)
    prefix = tokens.prefix.repeat_interleave(parts, 0)
    of_part = copy.copy(model.probe)
    of_part.parts = 1
    logits = of_part(Tokens(cut, prefix, None, tokens.has_class))
    return cross_entropy(logits, labels().repeat_interleave(parts))


def near(parameter: str) -> dict[str, float]:
    """timm and SigLIP 2 interpolate positions in float32."""
    interpolated = parameter.endswith(
        ("model.pos_embed", "model.embeddings.position_embedding.weight")
    )
    return dict(atol=1e-6, rtol=1e-6) if interpolated else EXACT


@cases
@pytest.mark.parametrize("probe", ["linear", "ep4?input=prefix+patches", "aim2"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(name, probe, made):
    """Parts of 3, 3 and 1 examples, each padded to its own longest."""
    of, inputs = double(made[name])
    if of.shape.parts > 1:  # prefix tokens are the mean over clips
        probe = probe.partition("?")[0]
    whole = adapted("full?layer_decay=1", of, probe).train()
    loss = loss_of_parts(whole, inputs)
    loss.backward()
    parts = adapted("full?layer_decay=1", of, probe).train()
    found = backward(parts, inputs, labels(), MicroBatch(3))
    assert found == pytest.approx(float(loss.detach()), rel=1e-10)
    expected = gradients(whole)
    assert gradients(parts).keys() == expected.keys()
    for parameter, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[parameter], **near(parameter), msg=parameter)


@cases
def test_neighbours_and_padding_reach_no_loss(name, made):
    """Each example alone gives the batch's logits, and together they give its gradient, also if what lies
    in padding isn't a number."""
    of, inputs = double(made[name])
    together = adapted("full?layer_decay=1", of, "ep4").eval()

    def spoilt(module, given, tokens: Tokens) -> Tokens:
        if tokens.mask is None:
            return tokens
        padding = ~tokens.mask[..., None]
        return replace(tokens, patches=tokens.patches.masked_fill(padding, torch.nan))

    together.reader.register_forward_hook(spoilt)
    logits = together(inputs)
    cross_entropy(logits, labels(), reduction="sum").backward()
    alone = adapted("full?layer_decay=1", of, "ep4").eval()
    for row, one in enumerate(inputs.split(1)):
        own = alone(one)
        torch.testing.assert_close(own[0], logits[row], **EXACT)
        cross_entropy(own, labels()[row : row + 1], reduction="sum").backward()
    expected = gradients(alone)
    assert gradients(together).keys() == expected.keys()
    for parameter, gradient in gradients(together).items():
        torch.testing.assert_close(gradient, expected[parameter], **near(parameter), msg=parameter)


@cases
def test_an_adapted_backbone_begins_as_the_frozen_one(name, made):
    of, inputs = made[name]
    frozen = of(inputs)
    model = adapted("lora?modules=embed" if "module" in name else "lora?rank=2", of)
    with torch.no_grad():
        tokens = model.tokens(inputs)
    real = slice(None) if frozen.mask is None else frozen.mask
    torch.testing.assert_close(tokens.patches[real], frozen.patches[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.prefix, frozen.prefix, atol=1e-5, rtol=1e-5)
    if tokens.mask is not None:  # as in a store
        assert not tokens.patches[~tokens.mask].any()


MODULE = "images of their own shape, a module"  # one linear layer, whose blocks aren't known
LEARN = [
    (name, adaptation)
    for name in CASES
    for adaptation in ("lora?rank=2", "bitfit", "layernorm", "full?layer_decay=0.75")
    if name != MODULE
]


@pytest.mark.parametrize(
    ("name", "adaptation"),
    [*LEARN, (MODULE, "lora?modules=embed"), (MODULE, "full?layer_decay=1")],
)
def test_it_learns_and_the_rest_stays_bit_by_bit(name, adaptation, made):
    of, inputs = made[name]
    model = adapted(adaptation, of).train()
    model.probe.requires_grad_(False)  # what the loss falls by is the backbone's
    before = {k: v.clone() for k, v in root(model.reader).state_dict().items()}
    optimizer = build_optimizer("adamw", model.parameter_groups())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(backward(model, inputs, labels(), MicroBatch(4)))
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    for parameter, after in root(model.reader).state_dict().items():
        assert torch.equal(after, before[parameter]) == (parameter not in model.names), parameter


@pytest.mark.parametrize("at_once", [256, 2])
def test_learning_rates_of_blocks_are_those_of_the_model_alone(at_once, made, monkeypatch):
    """L = 3, decay ½, as of images, also where three frames pass the blocks two at a time."""
    monkeypatch.setattr(parts, "AT_ONCE", at_once)
    of, _ = made["clips, frame by frame"]
    clips = adapted("full?layer_decay=0.5&lr_scale=1", of)
    images = models.adapted("full?layer_decay=0.5&lr_scale=1")
    assert {name: clips.scale(name) for name in clips.names} == {
        name: images.scale(name) for name in images.names
    }
    assert clips.scale("blocks.0.mlp.fc1.weight") == 1 / 8


def test_clips_read_each_by_itself_are_averaged_by_their_probabilities(made):
    of, inputs = double(made["clips, each by itself"])
    model = adapted("lora?rank=2", of, "ep4").eval()
    rows = model.probe.of_each_part(model.tokens(inputs))
    assert rows.shape == (2 * COUNT, 2)
    torch.testing.assert_close(
        model(inputs).softmax(1), rows.softmax(1).unflatten(0, (-1, 2)).mean(1)
    )


def test_a_module_without_weights_is_refused():
    class Mean(torch.nn.Module):
        preprocessing = NativePreprocessing(4, 12, (0.4,), (0.3,), channels=1)

        def tokens(self, images: Ragged) -> Tokens:
            rows = images.padded()
            return Tokens(rows, rows[:, :0], mask=images.mask)

    of = load_backbone(Mean())
    for adaptation in ("full?layer_decay=1", "bitfit", "layernorm", "lora"):
        with pytest.raises(IceprobeError, match=r"of '.*': it has no weights, take none$"):
            adapted(adaptation, of)


def test_memory_that_one_example_exceeds_is_said_with_what_makes_it_smaller(made):
    for name, smaller in (
        ("clips, VideoMAE", "one clip .* fewer frames"),
        ("images of their own shape, NaFlex", "one image .* a smaller max_tokens"),
        ("bags, all tokens", "one bag .* a smaller image_size"),
        ("recordings, Whisper", "one recording .* fewer seconds"),
    ):
        of, inputs = made[name]
        model = adapted("bitfit", of).train()

        def narrow(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        model.reader.register_forward_pre_hook(narrow)
        with pytest.raises(IceprobeError, match=smaller):
            backward(model, inputs, labels(), MicroBatch(4))
