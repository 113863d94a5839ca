"""Videos: frames against those that were written, times, labels; one line for what is wrong."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import BadImage
from iceprobe.datasets.clips import TURNED, UNEVEN, ArrayClip, VideoClip
from iceprobe.datasets.pixels import seen

from .videos import moving, write

pytest.importorskip("av")


def clip(path: Path) -> VideoClip:
    return VideoClip(lambda: path, path.name)


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_frames_are_those_that_were_written(ending: str, tmp_path) -> None:
    """Without loss; AVI has no time stamps in its packets' order, so it is read from the start."""
    frames = moving()
    video = clip(write(tmp_path / f"a.{ending}", frames))
    assert video.count == 12
    assert np.allclose(video.times, np.arange(12) / 10, atol=1e-3)
    assert video.fps == pytest.approx(10)
    wanted = [11, 0, 7, 7, 3]
    assert np.array_equal(video.frames(wanted), frames[wanted])
    assert seen(video).done == ()


@pytest.mark.parametrize("wanted", [[0], [23], [3, 4, 20], list(range(24)), [9, 10, 11]])
def test_a_seek_gives_the_frame_that_counting_gives(wanted: list[int], tmp_path) -> None:
    """Frames that are coded from others, before and after them, with a key frame every five."""
    path = write(
        tmp_path / "a.mp4", moving(24), codec="libx264", pixels="yuv420p", g="5", bf="2"
    )  # fmt: skip
    counted = clip(path)
    every = counted.frames(range(24))
    assert abs(every.astype(int) - moving(24)).mean() < 6  # in their order, but for the loss
    assert np.array_equal(clip(path).frames(wanted), every[wanted])


def test_frames_at_uneven_times(tmp_path) -> None:
    stamps = [0, 1, 2, 10, 11, 30]
    video = clip(write(tmp_path / "a.mkv", moving(6), stamps=stamps))
    assert np.allclose(video.times, np.array(stamps) / 10, atol=1e-3)
    assert seen(video).done == (UNEVEN,)
    assert np.array_equal(video.frames([3, 5]), moving(6)[[3, 5]])


def test_a_video_is_turned_as_its_file_says(tmp_path) -> None:
    path = write(tmp_path / "a.mp4", moving(3), codec="mpeg4", pixels="yuv420p")
    upright = clip(path).frames([1])[0]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # the matrix of a track's header, version 0
    one = 1 << 16
    assert struct.unpack(">9i", content[at : at + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    content[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    video = clip(path)
    turned = video.frames([1])[0]
    assert np.array_equal(turned, np.rot90(upright, -1))  # by a quarter, clockwise
    assert seen(video).done == (TURNED,)


def test_what_is_no_video_is_named(tmp_path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(BadImage, match=r"video 'a.mp4' can't be read \(.*\): mend or remove it"):
        _ = clip(tmp_path / "a.mp4").count
    whole = write(tmp_path / "b.mkv", moving(20)).read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) // 2])
    cut = clip(tmp_path / "b.mkv")
    assert 0 < cut.count < 20
    assert np.array_equal(cut.frames([0, 2]), moving(20)[[0, 2]])


def test_a_frame_that_is_damaged_is_named(tmp_path) -> None:
    path = write(tmp_path / "b.avi", moving(8), codec="png", pixels="rgb24")
    content = path.read_bytes()
    packets = [at for at in range(len(content)) if content.startswith(b"00dc", at)][:8]
    damaged = bytearray(content)
    damaged[packets[5] + 8 : packets[6]] = bytes(packets[6] - packets[5] - 8)
    path.write_bytes(damaged)
    video = clip(path)  # the container doesn't count the damaged packet
    assert np.allclose(video.times, [0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    assert np.array_equal(video.frames([0, 6]), moving(8)[[0, 7]])
    with pytest.raises(BadImage, match=r"video 'b\.avi' can't be read \(.*Invalid data"):
        clip(path).frames([4])


def test_one_folder_a_class(tmp_path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for label in ("jump", "run"):
            for number in range(count):
                write(tmp_path / split / label / f"{number}.mkv", moving(4 + number))
    (tmp_path / "train" / "run" / "notes.txt").write_text("not a video")
    data = load_dataset(f"video:{tmp_path}")
    assert data.kind == "clip"
    assert list(data.classes) == ["jump", "run"]
    train = data.splits["train"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.names[4] == str(Path("train/run/1.mkv"))
    assert train.example(4).count == 5
    assert np.array_equal(np.asarray(train.image(4)), moving(5)[2])
    assert any("1 of 11 files are no videos that video: reads" in line for line in data.assumed)
    before = train.fingerprint()
    write(tmp_path / "train" / "run" / "1.mkv", moving(9))
    assert load_dataset(f"video:{tmp_path}").splits["train"].fingerprint() != before


def test_a_table_of_videos(tmp_path) -> None:
    for number in range(4):
        write(tmp_path / "clips" / f"{number}.mkv", moving(4))
    rows = [
        "clip,action,split",
        *(f"{n}.mkv,{'ab'[n % 2]},{'train' if n < 2 else 'test'}" for n in range(4)),
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    spec = f"table:{table}?video=clip&images={tmp_path / 'clips'}&target=action&split=split"
    data = load_dataset(spec)
    assert data.kind == "clip"
    assert data.splits["test"].names == ["2.mkv", "3.mkv"]
    assert np.array_equal(data.splits["test"].example(1).frames([3]), moving(4)[3:])
    with pytest.raises(IceprobeError, match=r"option mask=action .* beside video="):
        load_dataset(f"{spec}&mask=action")
    with pytest.raises(IceprobeError, match="is for images in files, and these are clips"):
        load_dataset(f"{spec}&alpha=white")
    table.write_text("\n".join(rows).replace("3.mkv", "5.mkv"))
    with pytest.raises(IceprobeError, match=r"no video .5\.mkv."):
        load_dataset(spec)


@pytest.mark.parametrize("of", ["folder", "table"])
def test_a_library_that_is_not_there_is_named(of: str, tmp_path, monkeypatch) -> None:
    for name in ("train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "test/b/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    lines = [
        "file,label,split",
        "train/a/1.mp4,a,train",
        "train/b/1.mp4,b,train",
        "test/a/2.mp4,a,test",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        IceprobeError, match=r"needs the package av: pip install 'iceprobe\[video\]'"
    ):
        load_dataset(
            f"video:{tmp_path}" if of == "folder" else f"table:{tmp_path}/a.csv?video=file"
        )


@pytest.mark.parametrize(
    ("layout", "error"),
    [
        ([], "has no class folders: put the videos of each class in a folder of its own"),
        (["a.mp4"], "has videos but no class folders, so labels are missing"),
        (
            ["train/a/1.mp4", "train/b/1.mp4", "test/c/1.mp4"],
            "class 'c' .* add videos of it to train/",
        ),
        (["a/1.jpg", "b/1.mp4", "b/2.mp4"], r"class 'a' .* has 0 video\(s\)"),
    ],
)
def test_a_wrong_layout_is_one_line(layout: list[str], error: str, tmp_path) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(IceprobeError, match=error):
        load_dataset(f"video:{tmp_path}")


def test_frames_in_memory() -> None:
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    found = ArrayClip(grey, fps=5.0)
    assert found.count == 2
    assert found.fps == pytest.approx(5)
    assert found.frames([1, 1, 0]).tolist() == [
        [[[v] * 3 for v in row] for row in grey[k].tolist()] for k in (1, 1, 0)
    ]
    assert np.asarray(found.middle())[..., 0].tolist() == grey[1].tolist()
