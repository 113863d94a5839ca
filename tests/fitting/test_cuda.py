"""The engine on a GPU does what it does on the CPU."""

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.fitting.engine import JointTrainer, forward
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.shuffling import ROWS, Shuffle
from tests.fitting.test_api import planted_dataset
from tests.fitting.test_engine import CLASSES, INPUTS, SHAPE, joint_members
from tests.store.conftest import make_backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("lars", 1.0)])
def test_a_step_on_cuda_equals_one_on_the_cpu(train, optimizer, rate):
    logits = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        groups = make_groups(joint_members(rate), SHAPE, CLASSES, device)
        trainer = JointTrainer(groups, optimizer, steps=10, warmup=1)
        feed = Feed(train, np.arange(len(train)), INPUTS, device, torch.float32)
        for batch in feed.shuffled(32, seed=0, epoch=0):
            trainer.train_step(batch)
        (batch,) = feed.in_order(len(train))
        with torch.no_grad():
            logits[name] = [z.cpu() for z in forward(groups, batch, training=False)]
    for one, other in zip(logits["cpu"], logits["cuda"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shuffle", [ROWS, Shuffle("blocks", 60, 80, 5)], ids=["rows", "blocks"])
@pytest.mark.parametrize("tokens", ["float16", "int8"])
def test_batches_copied_while_the_device_computes_are_whole(tmp_path, tokens, shuffle):
    """The stream that uses them is kept busy, so that a copy which isn't waited for would show."""
    split = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path, tokens=tokens)["train"]
    read = {"patches", "mean", "class"}
    batches = {}
    for name in ("cpu", "cuda"):
        feed = Feed(split, np.arange(240), read, torch.device(name), torch.float32, shuffle)
        batches[name] = []
        for batch in feed.shuffled(16, seed=0, epoch=1):
            if name == "cuda":
                torch.cuda._sleep(10**7)
            copies = {key: tensor.clone() for key, tensor in batch.inputs.items()}
            batches[name].append(copies | {"labels": batch.labels.clone()})
    for one, other in zip(batches["cpu"], batches["cuda"], strict=True):
        for key, tensor in one.items():
            assert torch.equal(other[key].cpu(), tensor)


def test_what_is_read_for_a_gpu_is_pinned(tmp_path):
    split = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path)["train"]
    assert split.rows("patches", np.arange(3), pinned=True).is_pinned()
