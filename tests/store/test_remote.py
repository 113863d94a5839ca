"""A store on object storage holds the tokens of a local one, whenever it was stopped."""

import hashlib
import json

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.cost import plan
from iceprobe.machine.object_storage import cache_folder
from iceprobe.store import Store, extract, extract_layers, repair
from tests.remote import BUCKET, client, objects, s3_server
from tests.store.conftest import SMALL, content, make_backbone, make_dataset

ROOT = f"s3://{BUCKET}/features"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, s3_server(patch.setenv) as address:
        yield address


@pytest.fixture
def s3(server, tmp_path, monkeypatch):
    """An empty bucket and a cold cache; the server's client."""
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cache"))
    s3 = client()
    for key in objects("features"):
        s3.delete_object(Bucket=BUCKET, Key=f"features/{key}")
    return s3


def same_tokens(a: Store, b: Store) -> None:
    for name in ("train", "test"):
        one, two = a[name], b[name]
        assert np.array_equal(one.labels, two.labels)
        assert np.array_equal(one.index, two.index)
        assert np.array_equal(one.boxes, two.boxes)
        assert torch.equal(one.prefix, two.prefix)
        assert torch.equal(one.mean, two.mean)
        rows = np.random.default_rng(0).permutation(len(one))
        assert torch.equal(one.patches(rows), two.patches(rows))
        assert torch.equal(one.masks(rows), two.masks(rows))


@pytest.mark.parametrize("tokens", ["float16", "int8"])
def test_tokens_are_those_of_a_local_store(s3, tmp_path, monkeypatch, tokens):
    here = extract(make_backbone(), make_dataset(), tmp_path / "here", tokens=tokens, **SMALL)
    there = extract(make_backbone(), make_dataset(), ROOT, tokens=tokens, **SMALL)
    assert str(there.path) == f"{ROOT}/{here.path.name}"
    assert there.identity == here.identity
    same_tokens(here, there)
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cold"))
    same_tokens(here, Store.open(str(there.path)))
    written = content(here.path)
    shards = {k: v for k, v in objects("features").items() if k.endswith(".safetensors")}
    assert sorted(shards.values()) == sorted(v for k, v in written.items() if "safetensors" in k)


def test_augmented_views_are_there_too(s3, tmp_path, monkeypatch):
    asked = dict(views=2, augmentation="light", **SMALL)
    here = extract(make_backbone(), make_dataset(), tmp_path / "here", **asked)
    there = extract(make_backbone(), make_dataset(), ROOT, **asked)
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cold"))
    for store in (there, Store.open(str(there.path), verify=True)):
        one, two = here["train"].views, store["train"].views
        assert len(two) == 2 * len(here["train"])
        rows = np.random.default_rng(0).permutation(len(one))
        assert torch.equal(one.patches(rows), two.patches(rows))
        assert torch.equal(one.mean, two.mean)
    same_tokens(here, there)


def test_a_copy_of_the_prefix_is_an_ordinary_store(s3, tmp_path):
    """What was made there can be taken home with any tool."""
    there = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    home = tmp_path / "home"
    home.mkdir()
    for key, body in objects(f"features/{there.path.name}").items():
        (home / key).write_bytes(body)
    same_tokens(there, Store.open(home, verify=True))


class Stop(Exception):
    pass


@pytest.mark.parametrize("images", [4, 30, 62])
def test_stopped_and_gone_on_with(s3, tmp_path, monkeypatch, images):
    extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    whole = objects("features")
    for key in whole:
        s3.delete_object(Bucket=BUCKET, Key=f"features/{key}")

    def stop(stage, done, total):
        if (done if stage == "extract train" else 50 + done) >= images:
            raise Stop

    with pytest.raises(Stop):
        extract(make_backbone(), make_dataset(), ROOT, **SMALL, progress=stop)
    left = objects("features")
    assert left.items() <= whole.items()
    assert not any(key.endswith("manifest.json") for key in left)
    records = sum(key.endswith(".json") for key in left)
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "another machine's"))
    again = make_backbone()
    extract(again, make_dataset(), ROOT, **SMALL)
    assert objects("features") == whole
    assert again.reader.images == 62 - sum(
        json.loads(body)["images"] for key, body in left.items() if key.endswith(".json")
    )
    assert records >= (images - 1) // 10 - 3  # two batches wait and one is being written


def test_killed_between_objects(s3, tmp_path):
    """After a shard and before its record; after the last record and before the manifest."""
    store = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    whole = objects("features")
    folder = f"features/{store.path.name}"
    for gone in (["manifest.json"], ["manifest.json", "train-00002.json"]):
        for key in gone:
            s3.delete_object(Bucket=BUCKET, Key=f"{folder}/{key}")
        with pytest.raises(IceprobeError, match=r"no feature store at s3://"):
            Store.open(str(store.path))
        again = make_backbone()
        extract(again, make_dataset(), ROOT, **SMALL)
        assert again.reader.images == (10 if len(gone) == 2 else 0)
        assert objects("features") == whole


def test_two_writers_whose_machines_differ(s3):
    """The other's shard is never read under our checksum: names hold the checksum."""
    from iceprobe.store import remote

    store = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    key = f"features/{store.path.name}"
    ours = objects(key)
    record = store.manifest.splits["train"].shards[1]
    other = bytearray(ours[record.file])
    other[-1] ^= 1
    plain = record.model_copy(
        update={
            "file": "train-00001.safetensors",
            "sha256": hashlib.sha256(other).hexdigest(),
        }
    )
    (remote.cache_folder() / plain.file).write_bytes(other)
    remote.put_shard(store.path, remote.cache_folder(), store.identity, plain)
    Store.open(str(store.path), verify=True)  # its manifest names what we put
    assert ours[record.file] == objects(key)[record.file]
    s3.delete_object(Bucket=BUCKET, Key=f"{key}/manifest.json")
    extract(make_backbone(), make_dataset(), ROOT, **SMALL)  # goes on from the last record
    found = Store.open(str(store.path), verify=True).manifest.splits["train"].shards[1]
    assert found.sha256 == plain.sha256


def test_a_fit_on_a_cold_cache_copies_what_it_reads(s3, tmp_path, monkeypatch):
    there = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    here = extract(make_backbone(), make_dataset(), tmp_path / "here", **SMALL)
    asked = dict(seeds=1, epochs=2, batch_size=16, learning_rates=[1e-2])
    for probes, copies in ((["linear?input=mean"], 0), (["ep2"], 7)):
        monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / f"cold-{copies}"))
        cold = Store.open(str(there.path))
        (mine,) = iceprobe.fit(cold, probes, output=tmp_path / f"there-{copies}", **asked)
        assert len(list(cache_folder().glob("*.safetensors"))) == copies
        (local,) = iceprobe.fit(here, probes, output=tmp_path / f"here-{copies}", **asked)
        assert mine.top1 == local.top1
        assert mine.store.path == str(there.path)
        for a, b in zip(
            mine.probes[0].state_dict().values(), local.probes[0].state_dict().values(), strict=True
        ):
            assert torch.equal(a, b)


def test_the_cache_stays_within_its_size(s3, tmp_path, monkeypatch):
    there = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    here = extract(make_backbone(), make_dataset(), tmp_path / "here", **SMALL)
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cold"))
    two_shards = 2.5 * there.manifest.splits["train"].shards[0].bytes
    monkeypatch.setenv("ICEPROBE_CACHE_GB", f"{two_shards / 1e9:.9f}")
    same_tokens(here, Store.open(str(there.path)))
    held = [file.stat().st_size for file in cache_folder().glob("*.safetensors")]
    assert 0 < sum(held) <= two_shards
    monkeypatch.setenv("ICEPROBE_CACHE_GB", "lots")
    with pytest.raises(IceprobeError, match="ICEPROBE_CACHE_GB='lots'"):
        Store.open(str(there.path))["train"].patches([0, 49])


def test_what_is_corrupt_is_named(s3, tmp_path, monkeypatch):
    store = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    key = f"features/{store.path.name}"
    record = store.manifest.splits["train"].shards[1]
    good = objects(key)[record.file]
    flipped = good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cold"))
    for body, says in ((flipped, "its checksum is"), (good[:-9], "bytes instead of")):
        s3.put_object(Bucket=BUCKET, Key=f"{key}/{record.file}", Body=body)
        with pytest.raises(IceprobeError, match=f"{record.file}: .*{says}") as caught:
            Store.open(str(store.path), verify=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(IceprobeError, match="removing the corrupt shard"):
        repair(str(store.path))
    # As the error says: remove both, extract again.
    for name in (record.file, "manifest.json"):
        s3.delete_object(Bucket=BUCKET, Key=f"{key}/{name}")
    again = make_backbone()
    extract(again, make_dataset(), ROOT, **SMALL)
    assert again.reader.images == 10
    Store.open(str(store.path), verify=True)


def test_no_changed_object_changes_what_is_read(s3, tmp_path, monkeypatch):
    """A flipped bit, zeros, a cut or another object's bytes: each is named, on a cold cache."""
    store = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    key, place = f"features/{store.path.name}", str(store.path)

    def read(number: int) -> dict[str, bytes]:
        monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / f"cold{number}"))
        opened = Store.open(place)
        found = {"manifest": opened.manifest.model_dump_json().encode()}
        for name in ("train", "test"):
            split = opened[name]
            rows = range(len(split))
            found |= {f"{name} mean": split.mean.numpy().tobytes()}
            found |= {f"{name} labels": split.labels.tobytes()}
            found |= {f"{name} patches": split.patches(rows).numpy().tobytes()}
        return found

    whole, there, number = read(0), objects(key), 0
    random = np.random.default_rng(0)
    shards = sorted(name for name in there if name.endswith(".safetensors"))
    silent, reported = [], []
    for name, good in there.items():
        if name.endswith(".json") and name != "manifest.json":
            continue  # a shard's record: read by a writer that goes on, not by a reader
        at = random.integers(0, len(good), 4)
        bad = [
            good[:i] + bytes([good[i] ^ 1 << int(random.integers(8))]) + good[i + 1 :] for i in at
        ]
        bad += [good[: len(good) // 2], good[:-64] + bytes(64)]
        bad += [there[other] for other in shards if other != name][:1]
        for body in bad:
            number += 1
            s3.put_object(Bucket=BUCKET, Key=f"{key}/{name}", Body=body)
            try:
                silent += [(name, number)] if read(number) != whole else []
            except IceprobeError as error:
                reported.append((name, str(error)))
        s3.put_object(Bucket=BUCKET, Key=f"{key}/{name}", Body=good)
    assert silent == []
    assert [line for name, line in reported if name not in line or "\n" in line] == []
    assert len(reported) > 0.9 * number
    assert read(number + 1) == whole


def test_a_finished_store_serves_again_and_in_plans(s3):
    store = extract(make_backbone(), make_dataset(), ROOT, **SMALL)
    again = make_backbone()
    (found,) = extract_layers(again, make_dataset(), ROOT, patches=False, **SMALL)
    assert (str(found.path), again.reader.images) == (str(store.path), 0)
    asked = plan(make_backbone(), make_dataset(), ROOT, measure_seconds=0, **SMALL)
    assert (asked.store, asked.bytes_to_write, asked.free_bytes) == (str(store.path), 0, None)
