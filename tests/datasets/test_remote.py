"""Images on object storage are the images that lie in a folder, under the same names."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage
from iceprobe.machine.object_storage import RemotePath, located
from tests.cli.conftest import write_images
from tests.remote import BUCKET, client, put_folder, s3_server


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, s3_server(patch.setenv) as address:
        yield address


@pytest.fixture(scope="module")
def folder(s3, tmp_path_factory):
    """The same images in a folder and under ``birds/``."""
    here = write_images(tmp_path_factory.mktemp("birds"), {"train": 3, "test": 2})
    (here / "train" / "dark" / "deep").mkdir()
    (here / "train" / "dark" / "00.png").rename(here / "train" / "dark" / "deep" / "00.png")
    (here / "train" / "dark" / ".hidden.png").write_bytes(b"no image")
    (here / "train" / "dark" / "notes.txt").write_text("nor this")
    put_folder(here, "birds")
    return here


def test_a_folder_is_read_as_a_local_one(folder):
    there = iceprobe.load_dataset(f"folder:s3://{BUCKET}/birds")
    here = iceprobe.load_dataset(f"folder:{folder}")
    assert there.name == "birds"
    assert there.classes == here.classes == ["dark", "grey", "light"]
    for split in ("train", "test"):
        assert there.splits[split].names == here.splits[split].names
        assert np.array_equal(there.splits[split].labels, here.splits[split].labels)
        for row in range(len(here.splits[split])):
            pair = [np.asarray(one.splits[split].image(row)) for one in (there, here)]
            assert np.array_equal(*pair)


def test_a_flat_folder_is_split_as_a_local_one(folder):
    there = iceprobe.load_dataset(f"folder:s3://{BUCKET}/birds/train?test_fraction=0.4&seed=3")
    here = iceprobe.load_dataset(f"folder:{folder}/train?test_fraction=0.4&seed=3")
    assert there.splits["test"].names == here.splits["test"].names


def test_a_table_and_its_images_are_read_as_local_ones(folder, tmp_path):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("??.png"))
    rows = [f"{name},{n / 2},{name.split('/')[0]}" for n, name in enumerate(names)]
    text = "\n".join(["path,age,split", *rows]) + "\n"
    (tmp_path / "ages.csv").write_text(text)
    client().put_object(Bucket=BUCKET, Key="birds/ages.csv", Body=text.encode())
    client().put_object(Bucket=BUCKET, Key="lists/ages.csv", Body=text.encode())
    here = iceprobe.load_dataset(f"table:{tmp_path}/ages.csv?target=age&images={folder}")
    for place in (
        f"s3://{BUCKET}/birds/ages.csv?target=age",
        f"s3://{BUCKET}/lists/ages.csv?target=age&images=s3://{BUCKET}/birds",
    ):
        there = iceprobe.load_dataset(f"table:{place}")
        for split in ("train", "test"):
            assert there.splits[split].names == here.splits[split].names
            assert np.array_equal(there.splits[split].labels, here.splits[split].labels)
            pair = [np.asarray(one.splits[split].image(0)) for one in (there, here)]
            assert np.array_equal(*pair)
        assert there.splits["test"].fingerprint() == there.splits["test"].fingerprint()
    with pytest.raises(
        IceprobeError, match=r"row 8 of 'ages.csv': no image .* in 's3://.*/lists'; 15 of 15"
    ):
        iceprobe.load_dataset(f"table:s3://{BUCKET}/lists/ages.csv?target=age")


def test_the_fingerprint_follows_the_objects(folder):
    bucket = client()
    split = iceprobe.load_dataset(f"folder:s3://{BUCKET}/birds").splits["train"]
    before = split.fingerprint()
    assert pickle.loads(pickle.dumps(split)).fingerprint() == before  # noqa: S301
    name = "birds/train/grey/00.png"
    content = bucket.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    bucket.put_object(Bucket=BUCKET, Key=name, Body=content[:-1] + b"x")  # the same length
    assert split.fingerprint() != before
    bucket.put_object(Bucket=BUCKET, Key=name, Body=content)
    assert split.fingerprint() == before  # an upload of the same bytes changes nothing
    bucket.delete_object(Bucket=BUCKET, Key=name)
    with pytest.raises(IceprobeError, match=r"s3://.*train/grey/00.png.*gone"):
        split.fingerprint()
    with pytest.raises(BadImage, match="gone"):
        split.image(split.names.index("train/grey/00.png"))
    bucket.put_object(Bucket=BUCKET, Key=name, Body=content)


def tar_of(rows) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for stem, label, shade in rows:
            pixels = io.BytesIO()
            Image.fromarray(np.full((6, 7, 3), shade, np.uint8)).save(pixels, "png")
            for name, content in (
                (f"{stem}.cls", label.encode()),
                (f"{stem}.png", pixels.getvalue()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_tars_are_read_by_offset(s3):
    bucket = client()
    for number in range(2):
        rows = [(f"{number}{i}", "ab"[i % 2], 40 * number + 10 * i) for i in range(4)]
        bucket.put_object(Bucket=BUCKET, Key=f"tars/train-{number:03}.tar", Body=tar_of(rows))
    bucket.put_object(Bucket=BUCKET, Key="tars/test-000.tar", Body=tar_of([("t", "b", 200)]))
    braces = f"webdataset:s3://{BUCKET}/tars/train-{{000..001}}.tar"
    test = f"test=s3://{BUCKET}/tars/test-*.tar"
    dataset = iceprobe.load_dataset(f"{braces}?{test}")
    train = dataset.splits["train"]
    assert dataset.classes == ["a", "b"]
    assert train.labels.tolist() == [0, 1] * 4
    assert train.names[5] == "train-001.tar/11.png"
    shades = [int(np.asarray(train.image(row))[0, 0, 0]) for row in range(8)]
    assert shades == [0, 10, 20, 30, 40, 50, 60, 70]
    assert int(np.asarray(dataset.splits["test"].image(0))[0, 0, 0]) == 200
    before = train.fingerprint()
    changed = tar_of([(f"1{i}", "ab"[i % 2], 99) for i in range(4)])
    bucket.put_object(Bucket=BUCKET, Key="tars/train-001.tar", Body=changed)
    assert train.fingerprint() != before


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (f"folder:s3://{BUCKET}/nowhere", "no folder 's3://"),
        ("folder:s3://no-such-bucket/birds", "no folder 's3://"),
        ("folder:nothing://bucket/birds", "nothing"),
        (f"webdataset:s3://{BUCKET}/none.tar?test=s3://{BUCKET}/none.tar", "no file 's3://"),
        (f"webdataset:s3://{BUCKET}/tars/test-000.tar?test=here.tar", "no file 'here.tar'"),
    ],
)
def test_what_is_wrong_is_one_line(s3, spec, says):
    with pytest.raises(IceprobeError) as caught:
        iceprobe.load_dataset(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # its client tries again for ten seconds
def test_a_server_that_is_not_there(monkeypatch):
    with s3_server(monkeypatch.setenv):
        pass
    with pytest.raises(IceprobeError, match=r"s3://.*credentials") as caught:
        iceprobe.load_dataset(f"folder:s3://{BUCKET}/birds")
    assert "\n" not in str(caught.value)


def test_a_url_survives_being_a_path(tmp_path):
    from pathlib import Path

    assert located(Path("s3://bucket/a/b")) == RemotePath("s3://bucket/a/b")
    assert located("S3://bucket/a/") == RemotePath("s3://bucket/a")
    assert located(tmp_path) == tmp_path
    assert located("features") == Path("features")
