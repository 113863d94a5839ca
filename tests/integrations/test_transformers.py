"""The callback of Hugging Face's Trainer: training with looks is training without, and it logs the scores."""

import pytest
import torch

import iceprobe
from tests.integrations.training import (
    PROBES,
    QUICK,
    Augmented,
    Model,
    assert_same,
    drawn,
    labelled,
    loss_of,
    seed,
)

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import transformers

from iceprobe.integrations.transformers import Probe


class Trained(Model):
    """As the Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, images, labels=None):
        self.seen.append(images.clone())
        if labels is None:
            return super().forward(images)
        return {"loss": loss_of(super().forward, (images, labels))}


def collate(items):
    return {
        "images": torch.stack([image for image, _ in items]),
        "labels": torch.tensor([label for _, label in items]),
    }


def trainer_of(tmp_path, **options):
    seed()
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        **dict(
            num_train_epochs=3, per_device_train_batch_size=8, use_cpu=True, save_strategy="no",
            logging_steps=2, report_to=[], disable_tqdm=True, remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        | options,
    )  # fmt: skip
    return transformers.Trainer(
        Trained(), arguments, data_collator=collate, train_dataset=Augmented()
    )


def add(trainer, **options):
    given = dict(select=lambda model: model.backbone) | QUICK | options
    probe = Probe(trainer, labelled(), PROBES, **given)
    trainer.add_callback(probe)
    return probe


def end_of(trainer):
    trainer.train()
    model = trainer.model
    state = [model.state_dict(), trainer.optimizer.state_dict(), model.seen, drawn()]
    own = [
        {key: value for key, value in one.items() if "runtime" not in key and "per_sec" not in key}
        for one in trainer.state.log_history
        if not any(key.startswith("iceprobe/") for key in one)
    ]
    return [*state, own, [one.training for one in model.modules()]]


@pytest.mark.parametrize(
    ("every", "steps"), [("4 steps", [4, 8, 12, 16]), ("1 epoch", [6, 12, 18])]
)
def test_training_with_looks_is_training_without_bit_by_bit(every, steps, tmp_path):
    """What the trainer logs itself included: every other step, some of which are a look's."""
    without = end_of(trainer_of(tmp_path))
    trainer = trainer_of(tmp_path)
    probe = add(trainer, every=every)
    assert_same(end_of(trainer), without)
    assert [one.step for one in probe.history] == steps
    logged = [one for one in trainer.state.log_history if "iceprobe/ep2/top1" in one]
    assert [one["step"] for one in logged] == steps
    for one, look in zip(logged, probe.history, strict=True):
        assert {key: one[key] for key in look.scores} == look.scores


def test_scores_go_to_the_loggers_of_the_trainer(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = trainer_of(tmp_path, report_to=["tensorboard"])
    probe = add(trainer, every="1 epoch")
    trainer.train()
    (file,) = (tmp_path / "board").rglob("events*")
    events = EventAccumulator(str(file)).Reload()
    found = events.Scalars("train/iceprobe/ep2/top1")
    assert [one.step for one in found] == [6, 12, 18]
    scores = [one.scores["iceprobe/ep2/top1"] for one in probe.history]
    assert [one.value for one in found] == pytest.approx(scores)


def test_steps_in_the_middle_of_an_epoch_end_no_epoch(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=9)
    probe = add(trainer, every="1 epoch")
    trainer.train()
    assert [one.step for one in probe.history] == [6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(select=None), "image_size"),
        (dict(select=lambda model: model.head), "image_size"),
        (dict(limit=1), "train"),
    ],
)
def test_what_is_wrong_is_refused_before_the_first_step(change, message, tmp_path):
    trainer = trainer_of(tmp_path)
    add(trainer, **change)
    with pytest.raises(iceprobe.IceprobeError, match=message):
        trainer.train()
    assert not trainer.model.seen


def test_the_trainer_comes_first():
    with pytest.raises(iceprobe.IceprobeError, match=r"trainer\.add_callback"):
        Probe("bundled:fashion", ["knn"], {})
