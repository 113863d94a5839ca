"""Probes on tokens of your own, taken along without a backbone."""

import re

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.exporting.of_tokens import TokenProbe
from tests.fitting.test_ragged import bags

SETTINGS = {"epochs": 3, "seeds": 1, "learning_rates": [0.02], "protocol": "paper"}
PROBES = ["ep4", "abmilp?gated=true", "linear?input=mean", "dsmil2", "aim4", "cait4"]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ragged")
    data = {"train": bags(60, 0), "test": bags(30, 1)}
    return data, iceprobe.fit(iceprobe.from_tokens(data), PROBES, **SETTINGS, output=folder / "run")


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    folder = tmp_path_factory.mktemp("even")
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = rng.normal(size=(60, 12, 24)).astype(np.float32)
    data = {"train": (x, y), "test": (x[:30], y[:30])}
    store = iceprobe.from_tokens(data, grid=(3, 4))
    return data, iceprobe.fit(store, ["ep4", "cbam"], **SETTINGS, output=folder / "run")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = rng.normal(size=(60, 24)).astype(np.float32)
    data = {"train": (x, y), "test": (x[:30], y[:30])}
    return data, iceprobe.fit(
        iceprobe.from_tokens(data), ["linear"], **SETTINGS, output=folder / "run"
    )


def opened(results, label, folder, **more) -> TokenProbe:
    (result,) = (one for one in results if one.label == label)
    return iceprobe.load_probe(iceprobe.export(result, folder, **more))


@pytest.mark.parametrize("probe", PROBES)
def test_a_loaded_probe_predicts_what_the_fit_did(ragged, tmp_path, probe):
    data, results = ragged
    model = opened(results, probe, tmp_path / "model")
    assert isinstance(model, TokenProbe)
    assert not (tmp_path / "model" / "backbone.safetensors").exists()
    (result,) = (one for one in results if one.label == probe)
    examples, _ = data["test"]
    logits = torch.stack([model(torch.from_numpy(one)[None])[0] for one in examples])
    kept = torch.from_numpy(iceprobe.records(result)["logits"][0].astype(np.float32))
    torch.testing.assert_close(logits, kept, rtol=2e-3, atol=2e-3)  # records are of 16 bits
    best = [reading[0][0] for reading in model.predict(examples)]
    assert best == [model.classes[k] for k in logits.argmax(1)]


def test_padding_changes_nothing(ragged, tmp_path):
    data, results = ragged
    model = opened(results, "ep4", tmp_path / "model")
    first, second = (torch.from_numpy(one) for one in data["test"][0][3:5])
    tokens = torch.full((2, 70, 24), float("nan"))
    tokens[0, : len(first)], tokens[1, : len(second)] = first, second
    mask = torch.zeros(2, 70, dtype=torch.bool)
    mask[0, : len(first)], mask[1, : len(second)] = True, True
    alone = torch.cat([model(one[None]) for one in (first, second)])
    torch.testing.assert_close(model(tokens, mask), alone, rtol=1e-5, atol=1e-5)
    maps = model.attention(tokens, mask)
    assert (maps[0, :, len(first) :] == 0).all()
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("what", "probe"),
    [
        *(("ragged", one) for one in PROBES),
        ("even", "ep4"),
        ("even", "cbam"),
        ("vectors", "linear"),
    ],
)
def test_onnx_gives_the_same(request, tmp_path, what, probe):
    """Also of more tokens and more examples than the exporter saw."""
    pytest.importorskip("onnxruntime")
    import onnxruntime

    data, results = request.getfixturevalue(what)
    (result,) = (one for one in results if one.label == probe)
    iceprobe.export(result, tmp_path / "onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    model = opened(results, probe, tmp_path / "folder")
    examples = [torch.from_numpy(one) for one in data["test"][0][:5]]
    if what == "ragged":
        longest = max(map(len, examples)) + 9
        tokens, mask = torch.full((5, longest, 24), 1e30), torch.zeros(5, longest, dtype=torch.bool)
        for row, one in enumerate(examples):
            tokens[row, : len(one)], mask[row, : len(one)] = one, True
        given = {"tokens": tokens.numpy(), "mask": mask.numpy()}
        given = {one.name: given[one.name] for one in session.get_inputs()}
    else:
        given = {"tokens": torch.stack(examples).numpy()}
    (found,) = session.run(["logits"], given)
    expected = torch.cat([model(one[None]) for one in examples])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("example", "line"),
    [
        (np.zeros((3, 5), np.float32), "example 1 has the shape (3, 5): give (N, 24)"),
        (np.zeros(24, np.float32), "example 1 has the shape (24,): give (N, 24)"),
        (np.full((2, 24), np.nan, np.float32), "example 1 is not finite"),
    ],
)
def test_what_is_no_example_is_named(ragged, tmp_path, example, line):
    model = opened(ragged[1], "ep4", tmp_path / "model")
    with pytest.raises(IceprobeError, match=re.escape(line)):
        model.predict([np.zeros((2, 24), np.float32), example])


def test_patches_alone_are_refused_by_a_probe_that_reads_more(tmp_path):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = rng.normal(size=(60, 12, 24)).astype(np.float32)
    store = iceprobe.from_tokens(
        {"train": (x, y), "test": (x[:30], y[:30])},
        prefix={"train": x[:, :1] + 1, "test": x[:30, :1] + 1},
    )
    (result,) = iceprobe.fit(
        store, ["ep2?input=class+patches"], **SETTINGS, output=tmp_path / "run"
    )
    model = opened([result], result.label, tmp_path / "model")
    with pytest.raises(
        IceprobeError, match=r"reads more than tokens \(N, 24\): call it with Tokens"
    ):
        model.predict([x[0]])
    with pytest.raises(IceprobeError, match="takes no others, take --format folder"):
        iceprobe.export(result, tmp_path / "onnx", format="onnx")
    logits = model(store["test"].tokens(np.arange(30)))
    kept = torch.from_numpy(iceprobe.records(result)["logits"][0].astype(np.float32))
    torch.testing.assert_close(logits, kept, rtol=2e-3, atol=2e-3)  # records are of 16 bits


def test_images_are_refused(ragged, tmp_path):
    from iceprobe.exporting import predict

    model = opened(ragged[1], "ep4", tmp_path / "model")
    with pytest.raises(IceprobeError, match="tokens of your own"):
        predict(model, tmp_path, tmp_path / "out.csv")
