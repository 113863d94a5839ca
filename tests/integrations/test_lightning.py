"""The callback of Lightning: training with looks is training without, and its loggers have the scores."""

import csv

import pytest
import torch

import iceprobe
from tests.integrations.training import (
    PROBES,
    QUICK,
    Model,
    assert_same,
    drawn,
    labelled,
    loader,
    loss_of,
    seed,
)

pytest.importorskip("lightning")
pytest.importorskip("pytorch_lightning")
import lightning.pytorch
import lightning.pytorch.loggers
import pytorch_lightning

from iceprobe.integrations.lightning import Probe

QUIET = dict(
    accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1
)


def module_of(package):
    class Trained(package.LightningModule):
        """Like a loop; what it logs is its own business."""

        def __init__(self) -> None:
            super().__init__()
            self.model, self.seen = Model(), []

        def forward(self, images):
            return self.model(images)

        def training_step(self, batch, index):
            self.seen.append([one.clone() for one in batch])
            loss = loss_of(self, batch)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log("val", loss_of(self, batch))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    return Trained()


def trained(package, tmp_path, callbacks, **options):
    seed()
    module = module_of(package)
    module.model.backbone.norm.eval()
    trainer = package.Trainer(
        max_epochs=3, default_root_dir=tmp_path, callbacks=callbacks, **QUIET | options
    )
    trainer.fit(module, loader(), loader())
    end = [module.state_dict(), trainer.optimizers[0].state_dict(), module.seen, drawn()]
    return [*end, [one.training for one in module.modules()]], trainer


def look(**options):
    return Probe(labelled(), PROBES, select=lambda module: module.model.backbone, **QUICK | options)


@pytest.mark.parametrize(
    "package", [lightning.pytorch, pytorch_lightning], ids=lambda p: p.__name__
)
@pytest.mark.parametrize(
    ("every", "steps"), [("4 steps", [4, 8, 12, 16]), ("1 epoch", [6, 12, 18])]
)
def test_training_with_looks_is_training_without_bit_by_bit(package, every, steps, tmp_path):
    without, _ = trained(package, tmp_path, [], logger=False)
    probe = look(every=every)
    found, _ = trained(package, tmp_path, [probe], logger=False)
    assert_same(found, without)
    assert [one.step for one in probe.history] == steps
    assert [one.epoch for one in probe.history] == ([1, 2, 3] if "epoch" in every else [0, 1, 1, 2])


def test_a_look_falls_on_a_step_of_the_optimizer(tmp_path):
    """Of 6 batches an epoch, 3 make a step: a look at step 1 is taken once."""
    probe = look(every="1 step")
    trained(lightning.pytorch, tmp_path, [probe], logger=False, accumulate_grad_batches=3)
    assert [one.step for one in probe.history] == [1, 2, 3, 4, 5, 6]


def test_scores_go_to_the_loggers_and_to_callbacks_that_monitor_one(tmp_path):
    probe = look(every="1 epoch")
    best = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path / "best", monitor="iceprobe/ep2/top1", mode="max", save_top_k=1
    )
    table = lightning.pytorch.loggers.CSVLogger(tmp_path, name="csv")
    board = lightning.pytorch.loggers.TensorBoardLogger(tmp_path, name="board")
    _, trainer = trained(lightning.pytorch, tmp_path, [best, probe], logger=[table, board])
    name, of_knn = "iceprobe/ep2/top1", "iceprobe/knn/top1_low"
    scores = [one.scores[name] for one in probe.history]
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    assert [int(row["step"]) for row in rows] == [6, 12, 18]
    assert [float(row[name]) for row in rows] == scores
    assert [float(row[of_knn]) for row in rows] == [one.scores[of_knn] for one in probe.history]
    assert float(best.best_model_score) == pytest.approx(max(scores))
    assert float(trainer.callback_metrics[name]) == pytest.approx(scores[-1])

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "version_0")).Reload()
    found = events.Scalars(name)
    assert [one.step for one in found] == [6, 12, 18]
    assert [one.value for one in found] == pytest.approx(scores)


def test_a_look_between_log_steps_is_logged(tmp_path):
    probe = look(every="5 steps")
    table = lightning.pytorch.loggers.CSVLogger(tmp_path, name="csv")
    stop = lightning.pytorch.callbacks.EarlyStopping(
        "iceprobe/knn/top1", mode="max", patience=99, check_on_train_epoch_end=True, strict=False
    )
    options = dict(logger=table, log_every_n_steps=50)
    trained(lightning.pytorch, tmp_path, [probe, stop], **options)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("iceprobe/knn/top1")]
    assert [int(row["step"]) for row in rows] == [5, 10, 15]
    assert float(stop.best_score) == pytest.approx(
        max(one.scores["iceprobe/knn/top1"] for one in probe.history)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(select=None), "image_size"),
        (dict(select=lambda module: "backbone"), "select="),
        (dict(select=lambda module: module.model.head), "image_size"),
        (dict(probes=["ep3"]), "ep3"),
        (dict(data="folder:/nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_refused_before_the_first_batch(change, message, tmp_path):
    given = dict(data=labelled(), probes=PROBES, select=lambda module: module.model.backbone)
    given |= change
    probe = Probe(given["data"], given["probes"], select=given["select"], **QUICK)
    seed()
    module = module_of(lightning.pytorch)
    trainer = lightning.pytorch.Trainer(
        max_epochs=1, default_root_dir=tmp_path, callbacks=[probe], logger=False, **QUIET
    )
    with pytest.raises(iceprobe.IceprobeError, match=message):
        trainer.fit(module, loader())
    assert not module.seen


def test_resumed_training_looks_on_at_its_steps(tmp_path):
    probe = look(every="4 steps")
    _, trainer = trained(lightning.pytorch, tmp_path, [probe], logger=False)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    seed()
    again = look(every="4 steps")
    longer = lightning.pytorch.Trainer(
        max_epochs=5, default_root_dir=tmp_path, callbacks=[again], logger=False, **QUIET
    )
    longer.fit(module_of(lightning.pytorch), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert [one.step for one in again.history] == [20, 24, 28]
