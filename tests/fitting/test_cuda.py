"""The engine on a GPU does what it does on the CPU."""

import numpy as np
import pytest
import torch

from iceprobe.fitting.engine import Crowd, forward
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from tests.fitting.test_engine import INPUTS, SHAPE, crowd_members

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("lars", 1.0)])
def test_a_step_on_cuda_equals_one_on_the_cpu(train, optimizer, rate):
    logits = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        groups = make_groups(crowd_members(rate), SHAPE, device)
        crowd = Crowd(groups, optimizer, steps=10, warmup=1)
        feed = Feed(train, np.arange(len(train)), INPUTS, device, torch.float32)
        for batch in feed.shuffled(32, seed=0, epoch=0):
            crowd.train_step(batch)
        (batch,) = feed.in_order(len(train))
        with torch.no_grad():
            logits[name] = [z.cpu() for z in forward(groups, batch, training=False)]
    for one, other in zip(logits["cpu"], logits["cuda"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
