"""Stopped anywhere, in any way, an extraction goes on and ends with the same bytes.

Killed at any change to the disk: ``tests/robustness/test_kill_points.py``.
"""

import json

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.folder_lock import exclusive
from iceprobe.store import Store, extract
from tests.store.conftest import SMALL, content, make_backbone, make_dataset


def test_stopped_from_outside_at_any_image(tmp_path):
    """An exception (as ctrl-C raises one) leaves only whole shards; the rest follows."""
    extract(make_backbone(), make_dataset(), tmp_path / "whole", **SMALL)
    whole = content(tmp_path / "whole")

    class Stop(Exception):
        pass

    for images in (4, 10, 30, 50, 62):
        root = tmp_path / f"stopped-{images}"
        seen = 0

        def stop(stage, done, total, images=images):
            nonlocal seen
            seen = done if stage == "extract train" else 50 + done
            if seen >= images:
                raise Stop

        with pytest.raises(Stop):
            extract(make_backbone(), make_dataset(), root, **SMALL, progress=stop)
        assert set(content(root)) <= set(whole)
        extract(make_backbone(), make_dataset(), root, **SMALL)
        assert content(root) == whole


def test_only_missing_shards_are_extracted_again(tmp_path):
    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if done > 30:
            raise Stop

    with pytest.raises(Stop):
        extract(make_backbone(), make_dataset(), tmp_path, **SMALL, progress=stop)
    manifest = next(tmp_path.glob("*/manifest.json"))
    splits = json.loads(manifest.read_text())["splits"]
    complete = sum(len(split["shards"]) for split in splits.values())
    assert complete >= 2
    again = make_backbone()
    extract(again, make_dataset(), tmp_path, **SMALL)
    assert again.reader.images == 62 - 10 * complete
    third = make_backbone()
    extract(third, make_dataset(), tmp_path, **SMALL)
    assert third.reader.images == 0


def test_resume_verifies_what_is_there(tmp_path):
    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if done > 30:
            raise Stop

    with pytest.raises(Stop):
        extract(make_backbone(), make_dataset(), tmp_path, **SMALL, progress=stop)
    shard = next(tmp_path.glob("*/train-00001.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[5000] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(IceprobeError, match=r"train-00001.*--repair"):
        extract(make_backbone(), make_dataset(), tmp_path, **SMALL)


def test_unfinished_store_is_refused(tmp_path):
    def stop(stage, done, total):
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(make_backbone(), make_dataset(), tmp_path, **SMALL, progress=stop)
    with pytest.raises(IceprobeError, match="unfinished"):
        Store.open(next(tmp_path.iterdir()))


def test_one_writer(tmp_path, backbone, dataset):
    folder = tmp_path / extract(backbone, dataset, tmp_path / "other", **SMALL).path.name
    with exclusive(folder), pytest.raises(IceprobeError, match="another process"):
        extract(backbone, dataset, tmp_path, **SMALL)
    assert not folder.exists()


def test_a_dead_owner_holds_no_lock(tmp_path, backbone, dataset):
    folder = tmp_path / extract(backbone, dataset, tmp_path / "other", **SMALL).path.name
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / "train-00000.safetensors.tmp").write_bytes(b"half")
    store = extract(backbone, dataset, tmp_path, **SMALL)
    assert content(store.path) == content(tmp_path / "other" / folder.name)
