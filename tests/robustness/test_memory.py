"""What a fit takes beside the tokens that ``memory`` bounds is known and told."""

import logging

import torch

from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.members import Member, Shape
from iceprobe.fitting.phases import Setting
from iceprobe.fitting.protocols import get_protocol
from iceprobe.fitting.selection import step_memory, tell_memory

N, D, CLASSES, BATCH = 196, 192, 10, 256


def step_of(*labels: str):
    setting = Setting(
        get_protocol("heldout", batch_size=BATCH), Shape(D, CLASSES, (14, 14), True), 0,
        torch.device("cpu"), torch.float32, Checkpoint(None, ""), lambda *_: None,
    )  # fmt: skip
    members = [Member(label, 1e-2, 0.0, seed) for label in labels for seed in range(3)]
    return step_memory(members, setting, N, 3000)


def test_a_step_of_three_members_by_hand():
    """Measured: memory=30 MB took 181 MB for one member, of which 30 are the tokens held."""
    step = step_of("ep4")
    batch = N * D * (3 * 2 + 2 * 4)  # float16 as stored, float32 as read: two batches and a rest
    queries = 3 * 4 * (4 * N + 2 * D) * 4
    probe = 4 * D + (D + 1) * D + (D + 1) * CLASSES
    assert step.images == BATCH
    assert step.per_image == batch + queries
    assert abs(step.fixed - 16 * 3 * probe) < 0.1 * step.fixed
    assert 130e6 < step.bytes < 160e6
    pooled = step_of("linear")  # reads no patches
    assert pooled.per_image < 0.01 * step.per_image


def test_a_budget_that_is_less_than_a_step_is_told(caplog):
    step = step_of("ep4")
    with caplog.at_level(logging.WARNING, "iceprobe"):
        tell_memory(30_000_000, step)
        tell_memory(None, step)
        tell_memory(10**9, step)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("memory=30 MB bounds the tokens that are held; each step of 256 images")
    assert f"about {step.bytes / 1e6:,.0f} MB beside them" in told
    assert f"at least {(30_000_000 + step.bytes) / 1e6:,.0f} MB in all" in told
