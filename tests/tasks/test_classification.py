"""What is kept of classes: predictions of the logits as they are, and the logits rounded."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save, save_file

from iceprobe.core.errors import IceprobeError
from iceprobe.results.predictions import Predictions, read_predictions, write_predictions
from iceprobe.tasks.classification import KEPT, MANY, Classification
from iceprobe.tasks.records import Arrays, joined, of_members
from iceprobe.tasks.selecting import kept_for

TASK = Classification()


def logits_of(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 40, classes, generator=generator)
    return logits, torch.randint(classes, (40,), generator=generator)


@pytest.mark.parametrize("classes", [3, 7])
def test_a_record_holds_what_the_metrics_read(classes):
    logits, labels = logits_of(classes)
    record = Arrays(TASK.record(logits, labels))
    assert (record.predicted == logits.argmax(-1).numpy()).all()
    ranks = (logits > logits.gather(-1, labels.expand(2, -1)[..., None])).sum(-1)
    if classes > 5:
        assert (record.top5 == (ranks < 5).numpy()).all()
    else:
        assert record.top5 is None
    np.testing.assert_array_equal(record.logits, logits.half().numpy())
    brief = Arrays(TASK.record(logits, labels, "scores"))
    assert brief.logits is brief.top5 is None
    assert (brief.predicted == record.predicted).all()
    top1, by_class = (TASK.metric(name) for name in ("top1", "mean_per_class"))
    right = record.predicted == labels.numpy()
    assert top1.value(record, labels.numpy()) == pytest.approx(right.mean(1))
    each = [right[:, labels.numpy() == c].mean(1) for c in np.unique(labels)]
    assert by_class.value(record, labels.numpy()) == pytest.approx(np.mean(each, 0))


def test_of_many_classes_the_highest_logits_are_kept_with_the_sum_of_all():
    logits, labels = logits_of(MANY + 1)
    record = Arrays(TASK.record(logits, labels))
    best = logits.topk(KEPT)
    assert record.logits.shape == (2, 40, KEPT)
    np.testing.assert_array_equal(record.logit_classes, best.indices)
    np.testing.assert_allclose(record.log_sum_exp, logits.logsumexp(-1))
    probability = np.exp(record.logits[..., 0] - record.log_sum_exp)
    np.testing.assert_allclose(probability, logits.softmax(-1).max(-1).values, rtol=1e-2)


def test_a_member_that_is_not_finite_predicts_no_class():
    logits, labels = logits_of(7)
    logits[1, 3, 2] = float("nan")
    record = TASK.record(logits, labels)
    assert record["predicted"][1, 3] == -1
    assert not record["top5"][1, 3]
    assert (record["predicted"][0] >= 0).all()


def test_records_of_batches_are_that_of_the_whole():
    logits, labels = logits_of(9)
    whole = TASK.record(logits, labels)
    parts = [slice(0, 15), slice(15, 15), slice(15, 40)]
    found = joined([TASK.record(logits[:, part], labels[part]) for part in parts])
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert torch.equal(of_members(whole, [1])["logits"], whole["logits"][1:])


@pytest.mark.parametrize("classes", [7, MANY + 1])
def test_logits_are_in_the_file_of_predictions_and_older_files_have_none(tmp_path, classes):
    logits, labels = logits_of(classes)
    made = Predictions.of(Arrays(TASK.record(logits, labels)), labels.numpy())
    path = tmp_path / "predictions.safetensors"
    write_predictions(path, {"ep4": made})
    found = read_predictions(path, "ep4")
    for name, array in made.logits().tensors().items():
        np.testing.assert_array_equal(found.logits().tensors()[name], array)
    twice = Predictions.joined([found, made])
    assert twice.predicted.shape == (4, 40)
    assert twice.logits().values.shape[0] == 4
    older = {n: t for n, t in load_file(path).items() if "log" not in n}
    save_file(older, path)
    before = read_predictions(path, "ep4")
    assert before.logits() is None
    assert Predictions.joined([before, made]).logits() is None
    np.testing.assert_array_equal(before.predicted, made.predicted)


@pytest.mark.parametrize("classes", [3, MANY, MANY + 1])
def test_predictions_are_written_part_by_part_as_the_library_writes_them_at_once(tmp_path, classes):
    """Logits of a run are GBs: neither the parts of all replicates nor the file are ever in memory."""
    path, images = tmp_path / "predictions.safetensors", 250
    names, parts, kept = [f"ä{i}.png" for i in range(images)], [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(1, images, classes, generator=generator)
        kept.append(TASK.record(logits, torch.arange(images) % classes))
        one = Predictions.of(Arrays(kept[-1]), np.arange(images) % classes)
        write_predictions(tmp_path / f"{seed}", {"ep4": replace(one, names=names)})
        parts.append(read_predictions(tmp_path / f"{seed}", "ep4", fresh=True))
    tracemalloc.start()
    write_predictions(path, {"ep4": Predictions.joined(parts)})
    assert tracemalloc.get_traced_memory()[1] < 250_000  # of 3 MB with 2,000 classes
    tracemalloc.stop()
    whole = {name: torch.cat([one[name] for one in kept]).numpy() for name in kept[0]}
    expected = {f"ep4/{name}": array for name, array in whole.items()}
    expected["labels"] = np.arange(images) % classes
    listed = json.dumps(names, ensure_ascii=False) + "\n"
    expected["names"] = np.frombuffer(listed.encode(), np.uint8)
    assert path.read_bytes() == save(expected)
    values = parts[0].logits().values
    values += 1  # a copy of one's own: the file stays as it was
    assert (parts[0].logits().values == kept[0]["logits"].numpy()).all()


def test_a_prediction_reads_as_classes_with_their_probabilities():
    logits, _ = logits_of(3)
    names = ["a", "b", "c"]
    for row, reading in zip(logits[0], TASK.readings(logits[0], names, 5), strict=True):
        expected = sorted(zip(row.softmax(0).tolist(), names, strict=True), reverse=True)
        assert reading == [(name, p) for p, name in expected]


def test_the_metric_is_the_one_asked_for_or_the_usual_one_or_the_primary_one():
    assert TASK.metric().name == "top1"
    assert TASK.metric(usual="mean_per_class").name == "mean_per_class"
    assert TASK.metric("top5", "mean_per_class").name == "top5"
    assert TASK.metric(usual="map").name == "top1"  # of another task
    with pytest.raises(IceprobeError, match=r"unknown metric of classification 'top2'.*top1"):
        TASK.metric("top2")


@pytest.mark.parametrize(
    ("metric", "kept"), [("top1", "scores"), ("top5", "predictions"), ("auroc", "everything")]
)
def test_a_record_keeps_the_least_that_its_metric_needs(metric, kept):
    labels = np.arange(40) % 10
    assert kept_for(TASK, TASK.metric(metric), 10, labels) == kept
