"""Less memory, the same gradient."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from iceprobe import IceprobeError
from iceprobe.adaptation.steps import MicroBatch, backward
from tests.reference.regularisation import penalty

from .models import adapted, backbone, images, labels

PROBES = [
    "linear",
    "ep4",
    "aim2",
    "ep4?input=prefix+patches",
    "aim2?complementarity=0.3&entropy=0.2",
]


def double():
    of = backbone()
    of.reader.double()
    return of


def gradients(model) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def whole(model) -> tuple[float, dict[str, torch.Tensor]]:
    """By torch alone, all images at once."""
    loss = cross_entropy(model.train()(images(7)), labels(7))
    terms = model.probe.regularisation
    if terms:
        weights = model.probe.pooling.attention(model.tokens(images(7)).patches)
        loss = loss + penalty(weights, terms.complementarity, terms.entropy)
    loss.backward()
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("adaptation", ["lora?rank=2", "bitfit", "full"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(adaptation, probe):
    of = double()
    loss, expected = whole(adapted(adaptation, of, probe))
    model = adapted(adaptation, of, probe).train()
    statistics = {n: b.clone() for n, b in model.probe.named_buffers()}
    assert backward(model, images(7), labels(7), MicroBatch(3)) == pytest.approx(loss, rel=1e-12)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=1e-9, msg=name)
    counted = [n for n in statistics if n.endswith("num_batches_tracked")]
    assert counted
    assert all(int(model.probe.get_buffer(n)) == 1 for n in counted)  # seen once, not per part


@pytest.mark.parametrize("size", [7, 3])
def test_checkpointing_changes_nothing_but_what_is_kept(size):
    of = double()
    _, expected = whole(adapted("full", of, "ep4"))
    model = adapted("full", of, "ep4", checkpointing=True).train()
    runs = []
    block = model.reader.model.blocks[0]
    block.attn.register_forward_hook(lambda *_: runs.append(1))
    backward(model, images(7), labels(7), MicroBatch(size))
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients(model)[name], gradient, atol=1e-12, rtol=1e-9)
    parts = -(-7 // size)
    assert len(runs) == 2 * parts + (parts if parts > 1 else 0)  # forward and again, and the tokens


class Narrow:
    """Stands in for a device: a pass of more than ``most`` images with a graph is too much."""

    def __init__(self, model, most: int):
        self.most, self.tried = most, []
        model.reader.register_forward_pre_hook(self)

    def __call__(self, module, inputs) -> None:
        if torch.is_grad_enabled():
            self.tried.append(len(inputs[0]))
            if len(inputs[0]) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_what_passes_at_a_time_and_keeps_the_batch():
    of = double()
    loss, expected = whole(adapted("lora", of, "aim2"))
    model = adapted("lora", of, "aim2").train()
    narrow, micro = Narrow(model, most=2), MicroBatch(64)
    assert backward(model, images(7), labels(7), micro) == pytest.approx(loss, rel=1e-12)
    assert micro.size == 2
    assert narrow.tried == [7, 4, 2, 2, 2, 1]
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients(model)[name], gradient, atol=1e-12, rtol=1e-9)
    fresh = adapted("lora", of, "aim2").train()
    fresh(images(7))
    for name, buffer in fresh.probe.named_buffers():  # as after one pass of the whole batch
        torch.testing.assert_close(model.probe.get_buffer(name), buffer)


def test_when_one_image_is_too_much_it_is_said():
    model = adapted("lora").train()
    Narrow(model, most=0)
    with pytest.raises(IceprobeError, match="one image at a time"):
        backward(model, images(4), labels(4), MicroBatch(4))


@pytest.mark.parametrize("size", [7, 3])
def test_bfloat16_is_the_same_to_its_rounding(size):
    of = backbone()
    model = adapted("lora", of, "ep4").train()
    exact = backward(model, images(7), labels(7), MicroBatch(7))
    model = adapted("lora", of, "ep4").train()
    assert backward(model, images(7), labels(7), MicroBatch(size), "bfloat16") == pytest.approx(
        exact, rel=0.05
    )
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
