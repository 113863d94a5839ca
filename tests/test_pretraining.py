"""tools/pretrain_*.py: augmentation, loss and what ships, each against a plain formula."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

sys.path.append(str(Path(__file__).parents[1] / "tools"))
import pretrain_dino
import pretrain_supervised
import pretraining


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_rate_rises_stays_and_falls_over_the_last_quarter():
    rates = [pretraining.learning_rate(step, 2000, 8.0) for step in (0, 199, 399, 1500, 1750, 2000)]
    assert rates == [8 / 400, 4, 8, 8, 4, 0]


def test_batches_of_a_step_do_not_depend_on_where_a_run_began():
    images = np.random.default_rng(0).integers(0, 255, (64, 28, 28), np.uint8)
    labels = np.arange(64) % 4
    endless = pretraining.batches(images, labels, 16, 0)
    _, _, third = (next(endless) for _ in range(3))
    resumed = next(pretraining.batches(images, labels, 16, 2))
    assert torch.equal(third[0], resumed[0])
    assert torch.equal(third[1], resumed[1])


def test_shifted_images_repeat_their_edge():
    images = torch.arange(8 * 9.0 * 9).view(8, 1, 9, 9)
    moved = pretrain_supervised.shift(images, generator())
    down, right = torch.randint(-3, 4, (2, 8, 1), generator=generator())[..., 0]
    clamped = range(9)
    for i in range(8):
        for y in clamped:
            for x in clamped:
                source = (min(max(y + int(down[i]), 0), 8), min(max(x + int(right[i]), 0), 8))
                assert moved[i, 0, y, x] == images[i, 0, source[0], source[1]]


def test_a_crop_of_the_whole_image_is_the_image_flipped_and_brightened():
    images = pretraining.normalise(torch.randint(0, 255, (4, 1, 56, 56), dtype=torch.uint8))
    black = pretraining.normalise(torch.zeros(1))
    for crop, image in zip(
        pretrain_dino.crops(images, 56, (56, 56), 2, generator()), images.repeat(2, 1, 1, 1),
        strict=True,
    ):  # fmt: skip
        ratios = [(crop - black) / (one - black) for one in (image, image.flip(-1))]
        spread = [ratio[image != black].std() for ratio in ratios if ratio.isfinite().all()]
        flat = [
            torch.allclose(crop - black, (one - black) * ratio.nanmedian(), atol=1e-3)
            for one, ratio in zip((image, image.flip(-1)), ratios, strict=True)
        ]
        assert any(flat), spread


def test_the_loss_is_cross_entropy_between_each_two_crops(monkeypatch):
    """Written with loops: teacher of two global crops, student of all, never with itself."""
    torch.manual_seed(0)
    model = pretrain_dino.SelfDistillation()
    monkeypatch.setattr(pretrain_dino, "DROP", 0.0)  # which patches stay is drawn inside
    images = torch.randn(3, 1, 56, 56)
    whole = pretrain_dino.crops(images, 32, pretrain_dino.GLOBAL_SIDES, 2, shared := generator(1))
    parts = pretrain_dino.crops(images, 20, pretrain_dino.LOCAL_SIDES, 2, shared)
    with torch.no_grad():
        found = model(images, generator(1))
        taught = pretrain_dino.balanced(model.teacher(whole) / 0.04).view(2, 3, -1)
        # Batch norm of the head: over all crops of one size.
        seen = [half for crops in (whole, parts) for half in model.student(crops).chunk(2)]
    losses = [
        -(taught[g, i] * (seen[v][i] / 0.1).log_softmax(-1)).sum()
        for g in range(2)
        for v in range(4)
        if v != g
        for i in range(3)
    ]
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_the_teacher_follows_and_stops_at_the_end():
    torch.manual_seed(0)
    model = pretrain_dino.SelfDistillation()
    with torch.no_grad():
        model.student.encoder.cls_token.fill_(1.0)
        model.teacher.encoder.cls_token.zero_()
    model.follow(0.0)
    assert float(model.teacher.encoder.cls_token.mean()) == pytest.approx(0.01)
    model.follow(1.0)
    assert float(model.teacher.encoder.cls_token.mean()) == pytest.approx(0.01)


def test_targets_are_scaled_in_turn_by_column_and_by_row():
    scores = torch.randn(5, 8, generator=generator(), dtype=torch.float64) * 3
    expected = np.exp(scores.numpy())
    for _ in range(3):
        expected /= expected.sum(0)
        expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(pretrain_dino.balanced(scores).numpy(), expected, rtol=1e-5)


def test_the_same_crops_for_all_are_shared_out_among_prototypes():
    alike = torch.randn(1, 8, generator=generator()).expand(4, 8)
    torch.testing.assert_close(pretrain_dino.balanced(alike), torch.full((4, 8), 1 / 8))


def test_what_ships_is_the_teachers_encoder_and_says_how_it_was_made(tmp_path):
    model = pretrain_dino.SelfDistillation()
    state = {"step": 400, "seconds": 10.4, "processor_seconds": 5.2, "losses": [[400, 7.5]]}
    state["looks"] = [{"step": 400, "knn": 0.5}]
    torch.save({"model": model.state_dict(), "state": state}, tmp_path / "checkpoint.pt")
    args = argparse.Namespace(output=tmp_path, export=tmp_path / "out", batch_size=64, note="n")
    pretraining.export(
        args, name="dino-tiny", paradigm="self-distillation", prefix="teacher.encoder.", norm=True,
        data="cropped", settings={"momentum": [0.99, 1.0]},
    )  # fmt: skip
    file = tmp_path / "out" / "dino-tiny.safetensors"
    VisionTransformer(**pretraining.SHAPE).load_state_dict(load_file(file))
    assert file.stat().st_size < 6_000_000
    card = json.loads((tmp_path / "out" / "dino-tiny.json").read_text())
    assert (card["steps"], card["seconds"], card["processor_seconds"]) == (400, 10, 5)
    assert card["looks"] == state["looks"]
    assert card["norm"] is True
    assert card["command"].startswith("python tools/pretrain_dino.py --output build/")
