"""Test sets alone: ImageNet's robustness sets, ObjectNet, and folders that are wholly a test split."""

import json
from pathlib import Path

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import CATALOGUE, load_dataset
from iceprobe.datasets.imagenet import names_of_synsets
from iceprobe.datasets.matching import matched
from tests.cli.conftest import BACKBONE, write_images
from tests.datasets import layouts
from tests.datasets.layouts import picture
from tests.datasets.test_benchmark import TEST_ALONE, held


def made(name: str, folder: Path) -> Path:
    getattr(layouts, name.replace("-", "_"))(folder)
    return folder


@pytest.mark.parametrize("name", list(TEST_ALONE))
def test_images_have_the_names_of_imagenet(name, tmp_path):
    dataset = load_dataset(name, root=made(name, tmp_path))
    assert list(dataset.splits) == ["test"]
    assert held(dataset, "test") == TEST_ALONE[name]
    assert dataset.name == name
    published = CATALOGUE[name].images[1]
    assert any(f"{published:,} are published" in line for line in dataset.assumed)
    if name != "objectnet":
        assert len(dataset.classes) == CATALOGUE[name].classes
        assert set(dataset.classes) <= set(names_of_synsets().values())


def test_the_border_of_objectnet_is_cropped(tmp_path):
    dataset = load_dataset("objectnet", root=made("objectnet", tmp_path))
    split = dataset.splits["test"]
    for index in range(len(split)):
        image = np.asarray(split.image(index))
        assert image.shape == (6, 8, 3)  # 2 pixels off each side of 10 x 12
        assert (image[..., 2] == 7).all()  # and nothing red
    assert dataset.maps == {"Alarm clock": ["analog clock", "digital clock"], "Banana": ["banana"]}


def test_a_damaged_mapping_of_objectnet_is_told(tmp_path):
    root = made("objectnet", tmp_path)
    path = root / "objectnet-1.0" / "mappings" / "objectnet_to_imagenet_1k.json"
    path.write_text(json.dumps({"Banana": "bananna"}))
    with pytest.raises(
        IceprobeError, match=r"1k.json, 'Banana': 'bananna' is no class of ImageNet"
    ):
        load_dataset("objectnet", root=root)
    path.write_text("{")
    with pytest.raises(IceprobeError, match=r"objectnet at .* can't be read \(JSONDecodeError"):
        load_dataset("objectnet", root=root)


@pytest.mark.parametrize(
    ("name", "folder", "error"),
    [
        (
            "imagenet-v2",
            "imagenetv2-matched-frequency-format-val/1000",
            "'1000' in .* is no number",
        ),
        ("imagenet-a", "imagenet-a/n01440764", "'n01440764' in .* is no synset"),
        ("imagenet-sketch", "sketch/backup", "'backup' in .* is no synset"),
    ],
)
def test_stray_folders_are_refused(name, folder, error, tmp_path):
    root = made(name, tmp_path)
    picture(root / folder / "9.jpg", 9)
    with pytest.raises(IceprobeError, match=error):
        load_dataset(name, root=root)


@pytest.mark.parametrize("name", list(TEST_ALONE))
def test_without_a_root_or_its_files_it_says_where_to_get_them(name, tmp_path):
    with pytest.raises(IceprobeError, match=f"{name}' needs root=DIR, the folder that holds"):
        load_dataset(name)
    with pytest.raises(IceprobeError, match=f"no {name} at .* get it from https://"):
        load_dataset(name, root=tmp_path)


def test_a_flat_folder_can_be_a_test_split_alone(tmp_path):
    folder = write_images(tmp_path, {"flat": 3}) / "flat"
    dataset = load_dataset(f"folder:{folder}?test_fraction=1")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"test": 9}
    store = iceprobe.extract(BACKBONE, dataset, tmp_path / "features", progress=False)
    with pytest.raises(
        IceprobeError, match=r"has no split 'train'.*iceprobe test RUN --data folder:"
    ):
        iceprobe.fit(store, ["linear"])


def test_names_of_imagenet_match_by_wordnet_id():
    ids, names = list(names_of_synsets()), list(names_of_synsets().values())
    assert matched(ids, names, range(1000), {}, "class of x:").targets.tolist() == list(range(1000))
    back = matched(names, ids[::-1], range(1000), {}, "class of x:")
    assert back.targets.tolist() == list(range(999, -1, -1))
    cranes = [names[134], names[517]]
    assert matched(ids, cranes, range(2), {}, "class of x:").targets.tolist() == [134, 517]
    with pytest.raises(IceprobeError, match="'crane' is none of the 1000"):
        matched(ids, ["crane"], [0], {}, "class of x:")


def test_objectnet_is_read_on_runs_of_imagenet_by_id_or_name(tmp_path):
    dataset = load_dataset("objectnet", root=made("objectnet", tmp_path))
    for ours in (list(names_of_synsets()), list(names_of_synsets().values())):
        found = matched(ours, dataset.classes, [0, 1], dataset.maps, "class of objectnet:")
        assert found.names[:2] == ["Alarm clock", "Banana"]
        assert found.targets.tolist() == [0, 1]
        assert np.flatnonzero(found.outputs == 0).tolist() == [409, 530]
        assert np.flatnonzero(found.outputs == 1).tolist() == [954]
        assert (len(found.names), found.without) == (999, 997)
        masked = found.masked()
        assert (masked.names, masked.without) == (["Alarm clock", "Banana"], 0)
    with pytest.raises(
        IceprobeError, match="'Alarm clock' stands for 'digital clock', which is none"
    ):
        matched(
            ["analog clock", "banana"], dataset.classes, [0], dataset.maps, "class of objectnet:"
        )


def test_two_classes_of_a_set_are_no_output_of_a_run_together():
    with pytest.raises(IceprobeError, match="'x' and 'y' are both 'a' of the run"):
        matched(["a", "b"], ["x", "y"], [0, 1], {"x": ["a"], "y": ["a", "b"]}, "class of s:")


def test_the_store_keeps_what_stands_for_a_class(tmp_path):
    dataset = load_dataset("objectnet", root=made("objectnet", tmp_path / "o"))
    store = iceprobe.extract(BACKBONE, dataset, tmp_path / "features", progress=False)
    assert iceprobe.Store.open(store.path).manifest.dataset.maps == dataset.maps
