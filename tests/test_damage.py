"""A damaged file ends in one line that names it, or changes nothing: never in another number.

Each kind of file that a number is made from is flipped, overwritten and cut at seeded places, or a
file of its kind is put in its place; then what is read of it is what was written, or is refused.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.analysis.files import read_analyses, write_analyses
from iceprobe.analysis.schema import Analysis, Estimate
from iceprobe.backbones import bundled_models
from iceprobe.backbones.options import TokenOptions
from iceprobe.core import checksums
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import bundled_images
from iceprobe.exporting.card import read_card
from iceprobe.fitting.checkpoint import Checkpoint, Saved
from iceprobe.fitting.fitted import load_fitted
from iceprobe.results.curves import read_curves
from iceprobe.store import Store
from tests.store.conftest import make_backbone, make_dataset

SMALL = dict(batch_size=8, shard_images=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A store, a run on it with its analysis, an exported folder, the state of a fit."""
    place = tmp_path_factory.mktemp("made")
    store = iceprobe.extract(make_backbone(), make_dataset(48, 32), place / "features", **SMALL)
    store.path.rename(place / "store")
    store = Store.open(place / "store")
    options = dict(seeds=2, epochs=2, learning_rates=[0.1, 0.3], min_steps=4)
    results = iceprobe.fit(store, ["knn", "linear", "ep4"], output=place / "run", **options)
    half = Estimate(0.5, (0.25, 0.75))
    write_analyses(
        place / "run",
        [
            Analysis(
                "ep4", store.identity, "test", 32, 32, 0, [0], half, half, half, None, None, 0.125,
                {}, {"cosine": half}, {"0.5": 0.75, "mean": 0.5}, {}, {}, [],
            )
        ],
    )  # fmt: skip
    state = {"momentum": torch.linspace(0.1, 1, 20), "steps": torch.tensor(7)}
    saved = Saved(state, {"name": "refit", "epoch": 3, "loss": 0.25}, [])
    Checkpoint(place / "state.safetensors", "f").save(saved)
    model = iceprobe.load_backbone("bundled:mae-tiny")
    clutter = iceprobe.load_dataset("bundled:fashion-clutter")
    seen = iceprobe.extract(model, clutter, place / "seen", limit=60, patches=False)
    (linear,) = iceprobe.fit(seen, ["linear"], output=place / "second", epochs=1, min_steps=2)
    iceprobe.export(linear, place / "model")
    assert len(results) == 3
    return place


def tensors(split, names) -> list[str]:
    rows = np.arange(len(split))
    found = [split.rows(name, rows) for name in names]
    return [hashlib.sha256(one.contiguous().view(torch.uint8).numpy()).hexdigest() for one in found]


def read_store(place: Path) -> object:
    store = Store.open(place / "store")
    names = ("patches", "prefix", "mean", "label", "index", "box", "mask")
    return [(one, tensors(store[one], names)) for one in store.splits], store.manifest.model_dump()


def read_vectors(place: Path) -> object:
    """What k-NN and a linear probe read: no patch."""
    split = Store.open(place / "store")["test"]
    return split.labels.tolist(), split.mean.tolist(), split.class_token.tolist()


def read_run(place: Path) -> object:
    results = iceprobe.read_results(place / "run")
    shape = Store.open(place / "store").shape
    weights = [
        hashlib.sha256(b"".join(p.numpy().tobytes() for p in state.values())).hexdigest()
        for result in results
        if result.files.probes
        for state in (load_fitted(result, shape, seed).state_dict() for seed in result.seeds)
    ]
    return (
        [result.model_dump(mode="json") for result in results],
        [(p.predicted.tolist(), p.labels.tolist()) for r in results if (p := r.predictions())],
        [row.model_dump() for row in read_curves(place / "run", *digest_of_curves(results[0]))],
        read_analyses(place / "run"),
        weights,
    )


def digest_of_curves(result) -> list:
    return [result.files.digests.get("curves.csv")]


def read_state(place: Path) -> object:
    saved = Checkpoint(place / "state.safetensors", "f").load()
    return {k: v.tolist() for k, v in saved.tensors.items()}, saved.phase, saved.before


def read_model(place: Path) -> object:
    return read_card(place / "model").model_dump(mode="json")


READ: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "shard": (read_store, "store/train-00001.safetensors", 40),
    "shard, vectors alone": (read_vectors, "store/test-00000.safetensors", 25),
    "manifest": (read_store, "store/manifest.json", 40),
    "results": (read_run, "run/results.json", 40),
    "predictions": (read_run, "run/predictions.safetensors", 30),
    "weights": (read_run, "run/probes/ep4-seed1.safetensors", 30),
    "curves": (read_run, "run/curves.csv", 30),
    "analysis": (read_run, "run/analysis.json", 30),
    "state": (read_state, "state.safetensors", 30),
    "card": (read_model, "model/model.json", 30),
    "exported weights": (read_model, "model/probe.safetensors", 10),
}
TWINS = {
    "shard": "store/train-00000.safetensors",
    "shard, vectors alone": "store/test-00001.safetensors",
    "weights": "run/probes/ep4-seed0.safetensors",
    "predictions": "second/predictions.safetensors",
    "curves": "second/curves.csv",
}


def damaged(content: bytes, count: int, twin: bytes | None) -> Iterator[bytes]:
    rng = np.random.default_rng(len(content))
    for number in range(count):
        place, changed = int(rng.integers(len(content))), bytearray(content)
        if number % 5 == 3:
            yield content[:place]
        elif number % 5 == 4:
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
            yield bytes(changed)
        else:
            changed[place] ^= 1 << int(rng.integers(8))
            yield bytes(changed)
    if twin is not None:
        yield twin


def silent(read: Callable[[], object], file: Path, contents: Iterator[bytes]) -> tuple[int, int]:
    """Damages after which another value was read, and how many there were.

    Raises:
        AssertionError: for an error that isn't one line naming the file.
    """
    whole, content, changed, count = read(), file.read_bytes(), 0, 0
    lines: list[str] = []
    for bad in contents:
        if bad == content:
            continue
        file.write_bytes(bad)
        count += 1
        try:
            changed += read() != whole
        except IceprobeError as error:
            lines.append(str(error))
        finally:
            file.write_bytes(content)
    assert [line for line in lines if file.name not in line or "\n" in line] == []
    assert read() == whole
    return changed, count


@pytest.mark.parametrize("kind", READ)
def test_no_damage_changes_what_is_read(made, kind):
    read, name, count = READ[kind]
    file = made / name
    twin = (made / TWINS[kind]).read_bytes() if kind in TWINS else None
    found = silent(lambda: read(made), file, damaged(file.read_bytes(), count, twin))
    assert found[0] == 0
    assert found[1] > 0.9 * count  # a few write zeros over zeros


@pytest.mark.parametrize(
    ("module", "load", "name", "options"),
    [
        (bundled_models, "mae-tiny", "mae-tiny.safetensors", {"tokens": TokenOptions()}),
        (bundled_models, "mae-tiny", "mae-tiny.json", {"tokens": TokenOptions()}),
        (bundled_images, "fashion", "fashion.npz", {}),
        (bundled_images, "fashion", "fashion.json", {}),
    ],
)
def test_bundled_files_are_those_that_were_shipped(
    tmp_path, monkeypatch, module, load, name, options
):
    package = Path(module.__file__).parent
    shutil.copytree(package / "bundled", tmp_path / "bundled")
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    module.load_bundled(load, spec=f"bundled:{load}", **options)
    content = bytearray((tmp_path / "bundled" / name).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "bundled" / name).write_bytes(content)
    with pytest.raises(IceprobeError, match=rf"{name} isn't what comes with iceprobe.*install"):
        module.load_bundled(load, spec=f"bundled:{load}", **options)


def test_what_an_earlier_version_wrote_opens_and_that_is_said_once(made, tmp_path, caplog):
    """Without a digest in any file; a remedy that `results.json` names is the same edit."""
    for name in ("store", "run"):
        shutil.copytree(made / name, tmp_path / name)
    whole = read_run(tmp_path)
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    for name in ("results.json", "analysis.json"):
        document = json.loads((tmp_path / "run" / name).read_text())
        del document["sha256"]
        for result in document.get("results", []):
            del result["files"]["digests"]
        (tmp_path / "run" / name).write_text(json.dumps(document))
    checksums._logged.clear()
    caplog.clear()
    now = read_run(tmp_path)
    assert now[1:] == whole[1:]
    said = [record.getMessage() for record in caplog.records if "assumed" in record.getMessage()]
    assert len(said) == 1
    assert "results.json is as it was written, and so are other files" in said[0]


def test_an_edit_by_hand_is_refused_and_its_remedies_work(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    whole = path.read_text()
    edited = json.loads(whole)
    edited["results"][0]["metrics"]["top1"]["mean"] = 0.999
    path.write_text(json.dumps(edited))
    with pytest.raises(IceprobeError, match=r"results.json is damaged or was changed by hand"):
        iceprobe.read_results(tmp_path / "run")
    del edited["sha256"]
    path.write_text(json.dumps(edited))
    assert iceprobe.read_results(tmp_path / "run")[0].top1.mean == 0.999
    path.write_text(json.dumps(json.loads(whole)))  # other white space, the same content
    assert iceprobe.read_results(tmp_path / "run")
