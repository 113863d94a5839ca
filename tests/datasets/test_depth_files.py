"""Depth maps of a table: each kind of file, to the exact number, from the file to the store."""

import io

import numpy as np
import pytest
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset
from iceprobe.datasets.depth_files import read_depth
from iceprobe.datasets.pixels import EIGHT_BIT_DEPTH, ORIENTATION, seen
from iceprobe.store import extract, extract_in_memory
from tests.store.conftest import SIDE, make_backbone

KNOWN = np.array([[7, 300, 65535], [1, 2, 4000]])
KINDS = {
    "deep.png": lambda file: Image.fromarray(KNOWN.astype(np.uint16)).save(file, "PNG"),
    "deep.tif": lambda file: Image.fromarray(KNOWN.astype(np.uint16)).save(file, "TIFF"),
    "float.tif": lambda file: Image.fromarray(KNOWN.astype(np.float32)).save(file, "TIFF"),
    "long.tif": lambda file: Image.fromarray(KNOWN.astype(np.int32)).save(file, "TIFF"),
    "a.npy": lambda file: np.save(file, KNOWN.astype(np.float64)),
    "half.npy": lambda file: np.save(file, (KNOWN / 4096).astype(np.float16)),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 0.001])
def test_numbers_of_each_kind_are_exact(tmp_path, name, scale):
    with (tmp_path / name).open("wb") as file:
        KINDS[name](file)
    stored = (KNOWN / 4096).astype(np.float16) if name == "half.npy" else KNOWN
    wanted = (stored.astype(np.float64) * scale).astype(np.float32)
    for source in (tmp_path / name, io.BytesIO((tmp_path / name).read_bytes())):
        found = read_depth(source, name, scale)
        assert found.mode == "F"
        assert np.array_equal(np.asarray(found), wanted)
        assert seen(found).done == ()


def test_8_bits_are_read_and_noted(tmp_path):
    Image.fromarray(np.array([[0, 9, 255]], np.uint8)).save(tmp_path / "8.png")
    found = read_depth(tmp_path / "8.png", "8.png")
    assert np.array_equal(np.asarray(found), [[np.nan, 9, 255]], equal_nan=True)
    assert seen(found).done == (EIGHT_BIT_DEPTH,)


def test_what_is_not_finite_and_above_0_is_not_known(tmp_path):
    numbers = np.array([[0, -1, np.nan], [np.inf, -np.inf, 1e39], [-0.0, 2, 1e-30]])
    np.save(tmp_path / "a.npy", numbers)
    found = np.asarray(read_depth(tmp_path / "a.npy", "a.npy"))
    wanted = [[np.nan] * 3, [np.nan] * 3, [np.nan, 2, np.float32(1e-30)]]
    assert np.array_equal(found, np.array(wanted, np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: Image.new("RGB", (3, 2)).save(p, "PNG"), "has the mode RGB: write one number a pixel"),
        (lambda p: np.save(p, np.ones((2, 2, 3))), r"has the shape \(2, 2, 3\) and type float64"),
        (lambda p: np.save(p, np.ones((2, 2), bool)), r"has the shape \(2, 2\) and type bool"),
        (lambda p: np.save(p, np.array([["a"]], object)), "can't be read"),
        (lambda p: p.write(b"no map at all"), "can't be read"),
        (lambda p: p.write(b""), "can't be read"),
    ],
)  # fmt: skip
def test_files_that_hold_no_numbers_are_bad_images(tmp_path, write, says):
    with (tmp_path / "m").open("wb") as file:
        write(file)
    with pytest.raises(BadImage, match=f"depth map 'm' {says}") as caught:
        read_depth(tmp_path / "m", "m")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadImage, match="depth map 'n' can't be read: it is gone"):
        read_depth(tmp_path / "n", "n")


@pytest.fixture
def rooms(tmp_path):
    """Eight images as large as the crop, whose maps are millimetres in files of two kinds."""
    (tmp_path / "maps").mkdir()
    rng, lines = np.random.default_rng(0), ["file,depth_file,room,split"]
    for n in range(8):
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE), np.uint8)).save(tmp_path / f"{n}.png")
        depth = rng.integers(0, 9000, (SIDE, SIDE), np.uint16)
        name = f"{n}.png" if n % 2 else f"{n}.npy"
        if n % 2:
            Image.fromarray(depth).save(tmp_path / "maps" / name)
        else:
            np.save(tmp_path / "maps" / name, depth)
        lines.append(f"{n}.png,{name},r{n // 2},{'train' if n < 6 else 'test'}")
    (tmp_path / "rooms.csv").write_text("\n".join(lines))
    return tmp_path


def spec(folder, more: str = "") -> str:
    return f"table:{folder}/rooms.csv?image=file&depth=depth_file&depths={folder}/maps{more}"


def stored_number(folder, n: int) -> np.ndarray:
    file = folder / "maps" / (f"{n}.png" if n % 2 else f"{n}.npy")
    return np.asarray(Image.open(file)) if n % 2 else np.load(file)


def test_a_table_needs_no_target_and_its_numbers_reach_the_store(rooms):
    data = load_dataset(spec(rooms, "&depth_scale=0.001&unit=m&group=room"))
    assert (data.task, data.classes, data.units, data.group) == ("depth", ["depth"], ["m"], "room")
    assert data.headline == "rmse"
    assert data.assumed == [
        "rooms.csv: column 'split' says which rows are test (split= names another)",
        "depth maps in column 'depth_file': pixels of 0, below 0, NaN or infinite aren't known",
    ]
    store = extract_in_memory(make_backbone(), data, batch_size=4)
    for split, rows in (("train", range(6)), ("test", range(6, 8))):
        found = store[split].depths(range(len(rows))).numpy()
        metres = np.stack([stored_number(rooms, n) for n in rows]).astype(np.float64) * 0.001
        wanted = np.where(metres > 0, metres, np.nan).astype(np.float32)
        assert np.array_equal(found, wanted, equal_nan=True)


def test_without_a_scale_numbers_are_as_they_are_and_that_is_said(rooms):
    data = load_dataset(spec(rooms))
    assert (
        "numbers of depth maps are read as they are (depth_scale= multiplies them)" in data.assumed
    )
    map_ = np.asarray(data.splits["train"].depth(1))
    assert np.array_equal(np.nan_to_num(map_), stored_number(rooms, 1))


def test_the_store_changes_with_scale_and_files(rooms, tmp_path):
    def identity(more: str = "") -> str:
        return extract(make_backbone(), load_dataset(spec(rooms, more)), tmp_path / "f").identity

    first = identity()
    assert identity() == first
    assert identity("&depth_scale=2") != first
    np.save(rooms / "maps" / "0.npy", np.ones((SIDE, SIDE)))
    assert identity() != first


def test_8_bit_maps_are_counted_among_the_assumptions(rooms):
    Image.fromarray(np.ones((SIDE, SIDE), np.uint8)).save(rooms / "maps" / "1.png")
    store = extract(make_backbone(), load_dataset(spec(rooms)), rooms / "features")
    (shard,) = store.manifest.splits["train"].shards
    assert shard.read == {EIGHT_BIT_DEPTH: 1}
    from iceprobe.store.noted import assumed_of_files

    assert assumed_of_files(store.manifest) == [
        "1 of 8 images with depth maps of 8 bits, which tell 255 numbers apart at most"
    ]


def test_a_map_turns_with_its_image(rooms):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(rooms / "0.png") as image:
        image.save(rooms / "0.png", exif=exif)
    split = load_dataset(spec(rooms)).splits["train"]
    turned = np.rot90(stored_number(rooms, 0), -1)
    assert np.array_equal(np.nan_to_num(np.asarray(split.depth(0))), turned)


def test_rows_without_a_map_have_no_known_pixel(rooms):
    table = rooms / "rooms.csv"
    table.write_text(table.read_text().replace("2.npy", ""))
    data = load_dataset(spec(rooms))
    assert "1 of 8 rows have no depth map: none of their pixels is known" in data.assumed
    assert data.splits["train"].depth(2) is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("&target=room", "option target=room of .* beside depth=: the numbers of pixels are the targets"),
        ("&mask=file", "option mask=file of .* beside depth="),
        ("&task=regression", "option task=regression of .* beside depth="),
        ("&depth_scale=0", "option depth_scale='0'"),
        ("&depth_scale=x", "option depth_scale='x'"),
        ("&depths=nowhere", "option depths='nowhere': no such folder"),
        ("&depth=depthfile", "depthfile.*depth_file"),
        ("&depth=file", "row 2 of 'rooms.csv': no depth '0.png' in .*maps"),
        ("&unit=m,cm", "has 2 units for 1 numbers"),
        ("&depth=", "option depths=.* is of depth=: add it"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(rooms, more, says):
    name = more[1:].partition("=")[0]
    whole = "&".join(p for p in spec(rooms).split("&") if not p.startswith(f"{name}="))
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(whole + more)
    assert "\n" not in str(caught.value)


def test_scale_and_folder_without_a_column_are_refused(rooms):
    for more in ("depth_scale=0.1", f"depths={rooms}"):
        with pytest.raises(IceprobeError, match="is of depth=: add it"):
            load_dataset(f"table:{rooms}/rooms.csv?image=file&target=room&{more}")


def test_a_map_of_another_size_names_its_image(rooms):
    np.save(rooms / "maps" / "2.npy", np.ones((SIDE, SIDE - 1)))
    with pytest.raises(BadImage, match=r"depth map of image '2\.png' has 15 x 16 pixels"):
        extract_in_memory(make_backbone(), load_dataset(spec(rooms)))
    np.save(rooms / "maps" / "2.npy", np.ones((SIDE, SIDE, 3)))
    with pytest.raises(BadImage, match=r"depth map '.*2\.npy' has the shape \(16, 16, 3\)"):
        extract_in_memory(make_backbone(), load_dataset(spec(rooms)))
