"""From images to a report: what is written, what a kill costs, how frozen and adapted compare."""

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

import iceprobe
from iceprobe import IceprobeError
from iceprobe.adaptation import protocol, split_qkv, training
from iceprobe.adaptation.examples import Examples
from iceprobe.backbones.augmentation import augmentation
from iceprobe.reporting.charts import colours
from iceprobe.reporting.cost_chart import scatter
from iceprobe.results import compare, compare_pair, read_curves, read_results
from iceprobe.store.format import EVALUATION_VIEW
from iceprobe.tasks.stratified import heldout_split
from tests.fitting.test_api import planted_dataset

from .models import DEPTH, DIM, backbone, vit

QUICK = dict(seeds=2, epochs=2, batch_size=48, learning_rates=[3e-3])
ASKED = ["none", "lora?rank=2", "full + ep4"]


@pytest.fixture(scope="module")
def dataset():
    return planted_dataset()


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    """A run folder, its results and what was printed."""
    folder, seen = tmp_path_factory.mktemp("runs") / "run", []
    results = iceprobe.adapt(
        backbone(), dataset, ASKED, ["linear?input=mean"], output=folder, tell=seen.append, **QUICK
    )
    return folder, results, seen


def test_frozen_and_adapted_results_stand_side_by_side(run):
    folder, results, seen = run
    labels = ["linear?input=mean", "lora?rank=2 + linear?input=mean", "full + ep4"]
    assert [r.label for r in results] == [r.label for r in read_results(folder)] == labels
    frozen, lora, full = results
    assert lora.parameters.adapter == DEPTH * 2 * 2 * DIM
    assert frozen.parameters.adapter == 0
    assert lora.parameters.total == lora.parameters.adapter + frozen.parameters.total
    assert full.parameters.adapter == sum(p.numel() for p in vit().parameters())
    assert lora.flops == frozen.flops  # merged at inference
    for one in results:
        assert one.images == frozen.images
        assert one.store.identity == frozen.store.identity
        # A frozen linear probe is at its optimum, which is the same for every seed.
        assert one.seeds == ([0] if one is frozen and one.probe.startswith("linear") else [0, 1])
    assert 0 < seen[0] < 60  # seconds of training, by one step of each
    assert not (folder / "trainings").exists()


def test_predictions_are_those_of_the_saved_adapter_and_probe(run, dataset):
    """By peft and torch alone, on images that the backbone's own transform made."""
    folder, (_, lora, _), _ = run
    model = vit()
    split_qkv(model)
    model = peft.PeftModel.from_pretrained(model, folder / lora.files.adapters[1])
    probe = iceprobe.probes.build("linear?input=mean", DIM, 3, has_class=True).eval()
    probe.load_state_dict(load_file(folder / lora.files.probes[1]))
    test, view = dataset.splits["test"], vit().preprocessing.transform
    pixels = torch.stack([view(test.image(i)) for i in range(len(test))])
    with torch.no_grad():
        tokens = model.base_model.model.forward_features(pixels)[:, 1:]
        predicted = probe(tokens).argmax(1).numpy()
    kept = read_results(folder)[1].predictions()
    assert (kept.predicted[1] == predicted).mean() > 0.98  # rounding may turn a close one
    assert lora.top1.values[1] == pytest.approx((kept.predicted[1] == test.labels).mean())


def test_weights_of_full_tuning_go_back_into_the_model(run):
    folder, (*_, full), _ = run
    learned = load_file(folder / full.files.adapters[0] / "backbone.safetensors")
    fresh = vit()
    assert learned.keys() == dict(fresh.named_parameters()).keys()
    fresh.load_state_dict(learned, strict=False)
    assert not torch.equal(fresh.blocks[0].mlp.fc1.weight, vit().blocks[0].mlp.fc1.weight)


def test_runs_are_compared_image_by_image(run, dataset, tmp_path):
    _, (frozen, lora, full), _ = run
    difference = compare_pair(lora, frozen).difference
    assert difference.mean == pytest.approx(lora.top1.mean - frozen.top1.mean)
    alone = iceprobe.fit(
        iceprobe.extract(backbone(), dataset, tmp_path / "features"), ["linear?input=mean", "ep4"],
        output=tmp_path / "frozen", seeds=1, epochs=1,
    )  # fmt: skip
    crossed = compare(alone, [lora, full])
    assert [(c.probe.label, c.against.label) for c in crossed] == [
        ("linear?input=mean", lora.label),
        ("ep4", full.label),
    ]


def test_the_report_draws_both_in_one_plane(run, tmp_path):
    _, results, _ = run
    page = iceprobe.report(results, tmp_path / "r.html").read_text()
    for shown in ("LoRA (rank=2) + linear (mean)", "fine-tuned + EP4", "linear (mean)"):
        assert shown in page
    plane = scatter(results, "parameters", colours(results))
    drawn = {row["probe"]: row["cost"] for row in _rows(plane) if "parameters" in row}
    assert drawn == {
        "linear (mean)": results[0].parameters.total,
        "LoRA (rank=2) + linear (mean)": results[1].parameters.total,
        "fine-tuned + EP4": results[2].parameters.total,
    }


def _rows(node):
    """All rows of data in a chart."""
    if isinstance(node, dict):
        yield from (row for row in node.get("values", []) if isinstance(row, dict))
        for child in node.values():
            yield from _rows(child)
    elif isinstance(node, list):
        for child in node:
            yield from _rows(child)


def test_an_adapted_probe_is_not_exported_as_if_it_were_frozen(run, tmp_path):
    _, (_, lora, _), _ = run
    with pytest.raises(IceprobeError, match="changes its backbone"):
        iceprobe.export(lora, tmp_path / "out")


def test_the_first_seed_selects_on_a_held_out_tenth(dataset, tmp_path):
    (result,) = iceprobe.adapt(
        backbone(), dataset, ["bitfit"], ["linear"], output=tmp_path / "run", seeds=2, epochs=2,
        batch_size=48, learning_rates=[1e-3, 1e-2],
    )  # fmt: skip
    rows = read_curves(tmp_path / "run")
    select = [row for row in rows if row.phase == "select"]
    assert {(row.seed, row.learning_rate, row.epoch) for row in select} == {
        (0, rate, epoch) for rate in (1e-3, 1e-2) for epoch in (1, 2)
    }
    best = max(row.eval_accuracy for row in select)
    chosen = next(r for r in select if r.learning_rate == result.selected["learning_rate"])
    assert best in {r.eval_accuracy for r in select if r.learning_rate == chosen.learning_rate}
    held = len(heldout_split(dataset.splits["train"].labels, 0)[1])
    assert (best * held) == pytest.approx(round(best * held))
    assert {row.seed for row in rows if row.phase == "refit"} == {0, 1}
    assert (result.settings_tried, result.selected_on) == (2, protocol.SELECTED_ON)


def test_a_killed_run_goes_on_after_its_last_finished_training(run, dataset, tmp_path, monkeypatch):
    """Killed in the third training of four; the end is as if nothing had happened."""
    whole_folder, whole, _ = run
    trained = []

    def train(model, task, *rest):
        trained.append((task.label, task.seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return training.train(model, task, *rest)

    monkeypatch.setattr(protocol, "train", train)
    options = dict(output=tmp_path / "run", **QUICK)
    with pytest.raises(KeyboardInterrupt):
        iceprobe.adapt(backbone(), dataset, ASKED, ["linear?input=mean"], **options)
    assert not (tmp_path / "run" / "results.json").exists()
    results = iceprobe.adapt(backbone(), dataset, ASKED, ["linear?input=mean"], **options)
    assert trained[:2] == [(whole[1].label, 0), (whole[1].label, 1)]
    assert trained[3:] == [(whole[2].label, 0), (whole[2].label, 1)]
    for mine, other in zip(results, whole, strict=True):
        assert mine.top1 == other.top1
        assert np.array_equal(mine.predictions().predicted, other.predictions().predicted)
        for file in mine.files.probes:
            ours, theirs = load_file(tmp_path / "run" / file), load_file(whole_folder / file)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    trained.clear()
    shown = iceprobe.adapt(backbone(), dataset, ASKED, ["linear?input=mean"], **options)
    assert not trained  # the finished run is shown
    assert [one.model_dump() for one in shown] == [one.model_dump() for one in results]
    with pytest.raises(IceprobeError, match=r"finished run with other settings .*run_seed 0 → 1"):
        iceprobe.adapt(
            backbone(), dataset, ASKED, ["linear?input=mean"], **options | {"run_seed": 1}
        )


def test_memory_that_is_saved_changes_no_result(run, dataset, tmp_path):
    """Micro-batches, checkpointing and images decoded at every pass: the same run to rounding."""
    _, (_, lora, _), _ = run
    (result,) = iceprobe.adapt(
        backbone(), dataset, ["lora?rank=2"], ["linear?input=mean"], output=tmp_path / "run",
        accumulate=3, checkpointing=True, memory=0, **QUICK,
    )  # fmt: skip
    for mine, other in zip(result.probes, lora.probes, strict=True):
        for name, tensor in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_an_augmented_training_image_is_seen_anew_at_each_pass_and_a_test_image_never(dataset):
    split, preprocessing = dataset.splits["train"], vit().preprocessing
    images = Examples(split, np.array([3, 5]), preprocessing)
    passes = [
        next(images.batches([np.array([1, 0])], "light", seed))[0]
        for seed in ((0, 0, 1), (0, 0, 1), (0, 0, 2))
    ]
    ((plain, _),) = images.batches([np.array([1, 0])])
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])
    assert passes[0].shape == plain.shape
    assert passes[0].dtype == torch.uint8

    drawn = np.random.SeedSequence((0, 0, 1, 5)).generate_state(1, np.uint64)[0] >> 1
    view = augmentation(preprocessing, "light")
    expected = view(split.image(5), torch.Generator().manual_seed(int(drawn)))
    torch.testing.assert_close(passes[0][0].float().div(255).sub(0.4).div(0.3), expected)


def test_an_augmented_training_says_so_and_its_selection_is_on_plain_images(dataset, tmp_path):
    options = dict(seeds=1, epochs=2, batch_size=60, learning_rates=[1e-3])
    plain, augmented = (
        iceprobe.adapt(
            backbone(), dataset, ["bitfit"], output=tmp_path / str(how), augmentation=how, **options
        )[0]
        for how in (None, "paper")
    )
    assert augmented.training_images == "live, paper augmentation"
    assert augmented.training["augmentation"] == "paper"
    assert plain.training_images == EVALUATION_VIEW
    mine, other = (one.probes[0].state_dict()["classifier.weight"] for one in (plain, augmented))
    assert not torch.equal(mine, other)
    with pytest.raises(IceprobeError, match="strong"):
        iceprobe.adapt(
            backbone(),
            dataset,
            ["bitfit"],
            output=tmp_path / "no",
            augmentation="strong",
            **options,
        )
    assert not (tmp_path / "no").exists()


def test_images_are_what_the_backbone_sees(dataset):
    split, preprocessing = dataset.splits["test"], vit().preprocessing
    images = Examples(split, np.array([3, 5, 8]), preprocessing)
    ((loose, labels),) = images.batches([np.array([2, 0])])
    images.hold(lambda done, total: None)
    ((held, _),) = images.batches([np.array([2, 0])])
    ((taken, _),) = images.take(np.array([0, 2])).batches([np.array([1, 0])])
    assert torch.equal(loose, held)
    assert torch.equal(taken, held)
    assert labels.tolist() == [split.labels[8], split.labels[3]]
    pixels = held.float().div(255).sub(0.4).div(0.3)
    torch.testing.assert_close(pixels[0], preprocessing.transform(split.image(8)))


def test_a_training_that_diverges_loses_the_selection_and_a_refit_says_so(dataset, tmp_path):
    options = dict(seeds=1, epochs=1, batch_size=48)
    (result,) = iceprobe.adapt(
        backbone(), dataset, ["full"], output=tmp_path / "two", learning_rates=[1e-3, 1e30],
        **options,
    )  # fmt: skip
    assert result.selected["learning_rate"] == 1e-3
    with pytest.raises(IceprobeError, match="diverged at a learning rate of 1e\\+30"):
        iceprobe.adapt(
            backbone(), dataset, ["full"], output=tmp_path / "one", learning_rates=[1e30], **options
        )
    with pytest.raises(IceprobeError, match=r"full .* diverged at every learning rate"):
        iceprobe.adapt(
            backbone(), dataset, ["full"], output=tmp_path / "all", learning_rates=[1e29, 1e30],
            **options,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(amp="float16"), "unknown forward_dtype"),
        (dict(seeds=0), "at least 1"),
        (dict(accumulate=0), "at least 1"),
        (dict(limit=2), "no training image of class"),
        (dict(split="val"), "split"),
        (dict(epochs=0), "epochs=0.: give at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(dataset, tmp_path, options, said):
    with pytest.raises(IceprobeError, match=said):
        iceprobe.adapt(backbone(), dataset, ["lora"], output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
