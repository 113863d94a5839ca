"""Runs on clips, images of their own shape, bags and recordings, beside those on frozen backbones."""

import re
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import iceprobe
from iceprobe import IceprobeError
from iceprobe.adaptation import coordinates
from iceprobe.adaptation.coordinates import measured
from iceprobe.adaptation.examples import Examples
from iceprobe.adaptation.trainable import root
from iceprobe.backbones.augmentation import augmentation
from iceprobe.backbones.kinds import Ragged, batched
from iceprobe.datasets.base import Split
from iceprobe.results import read_curves
from iceprobe.store.format import DatasetRecord
from iceprobe.store.noted import FirstSeen
from tests.datasets.sounds import tone, write

from .kinds import CASES, data

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

QUICK = dict(seeds=1, epochs=3, batch_size=8, learning_rates=[1e-2])
RUNS = [
    "clips, VideoMAE",
    "clips, frame by frame",
    "clips, each by itself",
    "images of their own shape, by shape",
    "images of their own shape, NaFlex",
    "bags, a vector an image",
    "recordings, with a mask",
]


@pytest.mark.parametrize("name", RUNS)
def test_frozen_and_adapted_results_stand_side_by_side(name, tmp_path):
    backbone = CASES[name](tmp_path)
    dataset = data(backbone.preprocessing.kind, tmp_path)
    folder, probe = tmp_path / "run", "linear?input=mean"
    frozen, lora, tuned = iceprobe.adapt(
        backbone, dataset, ["none", "lora?rank=2", "bitfit"], [probe], output=folder, **QUICK
    )
    store = iceprobe.extract(backbone, dataset, tmp_path / "features")
    (fitted,) = iceprobe.fit(store, [probe], output=tmp_path / "fit", seeds=1)
    assert np.array_equal(fitted.predictions().predicted, frozen.predictions().predicted)
    for one in (lora, tuned):
        assert (one.num_tokens, one.lengths, one.flops) == (
            fitted.num_tokens, fitted.lengths, fitted.flops,
        )  # fmt: skip
        assert one.images == frozen.images
    for label in (lora.label, tuned.label):
        losses = [row.train_loss for row in read_curves(folder) if row.probe == label]
        assert losses[-1] < losses[0]
    learned = load_file(folder / tuned.files.adapters[0] / "backbone.safetensors")
    found = root(backbone.reader).load_state_dict(learned, strict=False)
    assert not found.unexpected_keys  # the names are the library's


def test_predictions_are_those_of_the_saved_adapter_and_probe(tmp_path):
    """Of recordings, each alone, by transformers, peft and torch; in memory or not, in parts or not."""
    backbone = CASES["recordings, with a mask"](tmp_path)
    dataset = data("sound", tmp_path)
    probe = "linear?input=mean"
    whole, parts = (
        iceprobe.adapt(
            backbone, dataset, ["lora?rank=2"], [probe], output=tmp_path / str(len(more)), **QUICK, **more
        )[0]
        for more in ({}, dict(accumulate=3, memory=0, checkpointing=True))
    )  # fmt: skip
    model = transformers.Wav2Vec2Model.from_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "0" / whole.files.adapters[0]).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    weights = load_file(tmp_path / "0" / whole.files.probes[0])
    head = iceprobe.probes.build(probe, 16, 2).eval()
    head.load_state_dict(weights)
    predicted = []
    for row in range(len(dataset.splits["test"])):
        samples, rate = dataset.splits["test"].example(row).samples()
        values = extractor(samples, sampling_rate=rate, return_tensors="pt")["input_values"]
        with torch.no_grad():
            predicted.append(int(head(model(values).last_hidden_state).argmax()))
    assert predicted == whole.predictions().predicted[0].tolist()
    for name, tensor in parts.probes[0].state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-3, rtol=1e-3)


def test_a_finished_run_of_recordings_is_shown_again(tmp_path):
    backbone, dataset = CASES["recordings, by length"](tmp_path), data("sound", tmp_path)
    asked = dict(output=tmp_path / "run", **QUICK)
    (first,) = iceprobe.adapt(backbone, dataset, ["bitfit"], ["ep2"], **asked)
    (again,) = iceprobe.adapt(backbone, dataset, ["bitfit"], ["ep2"], **asked)
    assert first.model_dump() == again.model_dump()
    assert again.probes[0].pooling.num_predictors == 2


def test_random_views_are_of_clips_and_not_of_others(tmp_path):
    backbone, dataset = CASES["clips, frame by frame"](tmp_path), data("clip", tmp_path)
    plain, augmented = (
        iceprobe.adapt(
            backbone, dataset, ["bitfit"], output=tmp_path / str(how), augmentation=how, **QUICK
        )[0]
        for how in (None, "light")
    )
    assert augmented.training_images == "live, light augmentation"
    mine, other = (one.probes[0].state_dict()["classifier.weight"] for one in (plain, augmented))
    assert not torch.equal(mine, other)
    for name, said in (
        ("recordings, by length", "reads recordings: leave it out"),
        ("bags, all tokens", "reads bags of images: leave it out"),
        ("images of their own shape, NaFlex", "reads images of their own shape: leave it out"),
    ):
        folder = tmp_path / name
        backbone = CASES[name](folder)
        dataset = data(backbone.preprocessing.kind, folder)
        with pytest.raises(IceprobeError, match=f"augmentation=light: random views .* {said}"):
            iceprobe.adapt(
                backbone, dataset, ["bitfit"], output=folder / "run", augmentation="light", **QUICK
            )
        assert not (folder / "run").exists()


def test_coordinates_of_many_tokens_are_those_of_some(tmp_path, monkeypatch):
    """Of clips, bags and recordings, which may have any number of them."""
    backbone, split = CASES["bags, all tokens"](tmp_path), data("bag", tmp_path).splits["train"]
    bags = Examples(split, np.arange(6), backbone.preprocessing)

    def mean():
        return measured(backbone, bags, 2, ["ep2"], 0, 3)["patches"].mean

    tokens = backbone(
        batched([backbone.preprocessing.transform(split.example(k)) for k in range(6)])
    )
    torch.testing.assert_close(mean(), tokens.patches[tokens.mask].mean(0), atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(coordinates, "MOST_TOKENS", 40)
    some = mean()
    torch.testing.assert_close(some, mean(), atol=0, rtol=0)
    torch.testing.assert_close(some, tokens.patches[tokens.mask].mean(0), atol=0.5, rtol=0)
    assert not torch.allclose(some, tokens.patches[tokens.mask].mean(0), atol=1e-4)


def test_a_view_of_a_clip_is_that_of_its_seed(tmp_path):
    backbone, split = (
        CASES["clips, frame by frame"](tmp_path),
        data("clip", tmp_path).splits["train"],
    )
    examples = Examples(split, np.array([3, 5]), backbone.preprocessing)
    passes = [
        next(examples.batches([np.array([1, 0])], "light", seed))[0]
        for seed in ((0, 0, 1), (0, 0, 1), (0, 0, 2))
    ]
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])
    drawn = np.random.SeedSequence((0, 0, 1, 5)).generate_state(1, np.uint64)[0] >> 1
    view = augmentation(backbone.preprocessing, "light")
    expected = view(split.example(5), torch.Generator().manual_seed(int(drawn)))
    assert torch.equal(passes[0][0], expected)


@pytest.mark.parametrize(
    "name", ["clips, frame by frame", "bags, all tokens", "recordings, by length"]
)
def test_inputs_are_the_preprocessings_in_memory_or_not(name, tmp_path):
    backbone = CASES[name](tmp_path)
    reads = backbone.preprocessing
    split = data(reads.kind, tmp_path).splits["train"]
    examples = Examples(split, np.array([3, 5, 8]), reads)
    ((loose, labels),) = examples.batches([np.array([2, 0])])
    taken = examples.hold(lambda done, total: None)
    ((held, _),) = examples.batches([np.array([2, 0])])
    ((some, _),) = examples.take(np.array([0, 2])).batches([np.array([1, 0])])
    expected = batched([reads.transform(split.example(row)) for row in (8, 3)])
    for one in (loose, held, some):
        assert type(one) is type(expected)
        if isinstance(one, Ragged):
            assert torch.equal(one.lengths, expected.lengths)
            one = one.values
        assert torch.equal(one, expected.values if isinstance(expected, Ragged) else expected)
    assert labels.tolist() == [split.labels[8], split.labels[3]]
    every = batched([reads.transform(split.example(row)) for row in (3, 5, 8)])
    values = every.values if isinstance(every, Ragged) else every
    assert taken == 4 * values.numel()
    assert reads.kind == "sound" or examples.bytes == taken  # known before they are read
    small = Examples(split, np.array([3, 5, 8]), reads)
    assert (small.hold(lambda done, total: None, taken - 1), small.held) == (0, False)


def sounds(folder: Path) -> Split:
    """The recordings of ``folder/train``."""
    write(folder / "test" / "a" / "0.wav", tone(900))
    return iceprobe.load_dataset(f"audio:{folder}").splits["train"]


def test_recordings_longer_than_they_were_taken_for_are_not_kept(tmp_path):
    """Nothing says how long they are before they are read: a second each is the guess."""
    backbone = CASES["recordings, by length"](tmp_path)
    write(tmp_path / "long" / "train" / "a" / "0.wav", tone(48_000))
    write(tmp_path / "long" / "train" / "b" / "0.wav", tone(48_000))
    split = sounds(tmp_path / "long")
    examples = Examples(split, np.arange(2), backbone.preprocessing)
    assert examples.bytes == 2 * 4 * 16_000
    assert (examples.hold(lambda done, total: None, 4 * 90_000), examples.held) == (0, False)
    assert examples.hold(lambda done, total: None, 4 * 96_000) == 4 * 96_000


def test_what_is_done_to_recordings_is_said_and_what_cannot_be_read_is_named(tmp_path):
    backbone = CASES["recordings, by length"](tmp_path)
    for name, length, rate in (("a/0", 2_000, 8_000), ("a/1", 2_000, 16_000), ("b/0", 20, 16_000)):
        write(tmp_path / "set" / "train" / f"{name}.wav", tone(length), rate)
    (tmp_path / "set" / "train" / "b" / "1.wav").write_bytes(b"no sound" * 100)
    split = sounds(tmp_path / "set")
    record = DatasetRecord(spec="x", name="x", classes=["a", "b"])
    read = Examples(split, np.arange(2), backbone.preprocessing, FirstSeen(record).note)
    read.hold(lambda done, total: None)
    assert len(record.assumed) == 1
    assert "at another rate" in record.assumed[0]
    for row, said in (
        (2, "recording 'train/b/0.wav' can't be made ready (it has 20 samples of 16000 a second, and the "
            "backbone needs 40): an adaptation reads all examples, take it out"),
        (3, "mend or remove it (an adaptation reads all examples: take it out)"),
    ):  # fmt: skip
        examples = Examples(split, np.array([row]), backbone.preprocessing)
        with pytest.raises(IceprobeError, match=re.escape(said)):
            examples.hold(lambda done, total: None)
