"""The rules of docs/images.md by value, against Pillow, torchvision and `datasets` on the same files."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets.folder import pil_loader

from iceprobe.backbones import Preprocessing
from iceprobe.datasets import BadImage, load_dataset
from iceprobe.datasets.decoding import FORMATS, decode
from iceprobe.datasets.pixels import Reading, seen, turned, upright_boxes

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (6, 9, 3), np.uint8)
RGB, GREY = ((0.0,) * 3, (1.0,) * 3), ((0.0,), (1.0,))


def encoded(image: Image.Image, kind: str, **options) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return io.BytesIO(stream.getvalue())


def read(source, **reading) -> np.ndarray:
    image = decode(source, "x", Reading(**reading))
    return np.asarray(Preprocessing(8, *RGB).converted(image))


def theirs(source: io.BytesIO, tmp_path: Path) -> np.ndarray:
    """What torchvision's ImageFolder reads."""
    path = tmp_path / "image"
    path.write_bytes(source.getvalue())
    return np.asarray(pil_loader(path))


def deep_png(values: np.ndarray) -> io.BytesIO:
    """A PNG of 16 bits with 1 (grey), 2 (with alpha), 3 (RGB) or 4 bands, which Pillow can't write."""
    height, width, bands = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def tiff(values: np.ndarray, extra: int | None = None, order: str = "<") -> io.BytesIO:
    """An uncompressed TIFF of RGB and further bands, of the kind ``extra`` (0: unspecified)."""
    height, width, bands = values.shape
    bits = values.dtype.itemsize * 8
    entries = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * bands), (259, "H", [1]),
        (262, "H", [2]), (273, "I", [0]), (277, "H", [bands]), (278, "I", [height]),
        (279, "I", [values.nbytes]),
    ]  # fmt: skip
    if extra is not None:
        entries.append((338, "H", [extra] * (bands - 3)))
    behind = 8 + 2 + 12 * len(entries) + 4
    blob, fields = b"", []
    for tag, code, numbers in entries:
        raw = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(raw) > 4:
            blob, raw = blob + raw, struct.pack(f"{order}I", behind + len(blob))
        fields.append([tag, {"H": 3, "I": 4}[code], len(numbers), raw.ljust(4, b"\0")])
    for field in fields:
        if field[0] == 273:  # where the pixels begin
            field[3] = struct.pack(f"{order}I", behind + len(blob))
    directory = b"".join(struct.pack(f"{order}HHI", *field[:3]) + field[3] for field in fields)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(fields))
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    return io.BytesIO(head + directory + b"\0" * 4 + blob + pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "LAB"])
def test_ordinary_files_are_what_torchvision_reads(kind, mode, tmp_path):
    try:
        source = encoded(Image.fromarray(PHOTO).convert(mode), kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    try:
        expected = theirs(source, tmp_path)
    except OSError:  # Pillow before 13 can't read the YCbCr TIFF that it writes
        with pytest.raises(BadImage):
            decode(source, "x")
        return
    image = decode(source, "x")
    assert np.array_equal(read(source), expected)
    grey = Preprocessing(8, *GREY, channels=1).converted(image)
    if image.mode != "RGB" or mode == "RGB":  # LAB goes to grey by way of RGB
        assert np.array_equal(np.asarray(grey), np.asarray(image.convert("L")))
    coloured = {"CMYK", "YCbCr", "LAB"} & {Image.open(source).mode}
    assert seen(image).done == tuple(f"{found} to RGB" for found in coloured)


def test_one_bit_is_black_and_white():
    bits = np.array([[True, False, True]])
    source = encoded(Image.fromarray(bits), "PNG")
    assert read(source)[..., 0].tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once_as_datasets_does(kind, tag, tmp_path):
    import datasets

    exif = Image.Exif()
    exif[0x0112] = tag
    source = encoded(Image.fromarray(PHOTO), kind, exif=exif)
    features = datasets.Image()
    expected = features.decode_example({"bytes": source.getvalue(), "path": None}).convert("RGB")
    assert np.array_equal(read(source), np.asarray(expected))
    image = decode(source, "x")
    assert seen(image).turn == tag
    assert seen(image).done == (("turned upright",) if tag > 1 else ())
    assert ImageOps.exif_transpose(image).size == image.size  # nobody turns it again
    as_stored = read(source, orientation="ignore")
    assert np.array_equal(as_stored, theirs(source, tmp_path))


@pytest.mark.parametrize("tag", range(1, 9))
def test_boxes_turn_with_the_pixels(tag):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[4:9, 11:25] = 255
    image = turned(Image.fromarray(pixels), tag)
    rows, columns = np.nonzero(np.asarray(image))
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert upright_boxes(np.array([[11, 4, 25, 9]]), tag, image.size).tolist() == [expected]


SHAPE = np.zeros((6, 9), np.uint8)
SHAPE[1:4, 2:7] = 255
SHAPE[4, 2:7] = 102


def with_alpha(mode: str, colour: int) -> io.BytesIO:
    """A shape that the alpha channel alone holds."""
    plane = np.full_like(SHAPE, colour)
    bands = [plane] * (len(mode) - 1)
    return encoded(Image.fromarray(np.stack([*bands, SHAPE], -1), mode), "PNG")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_shape_of_alpha_alone_is_laid_on_white(mode, tmp_path):
    source = with_alpha(mode, colour=0)
    expected = np.repeat(255 - SHAPE[..., None], 3, -1)
    assert np.array_equal(read(source), expected)
    assert seen(decode(source, "x")).done == ("laid on white",)
    assert np.array_equal(read(source, alpha="black"), np.zeros_like(expected))
    assert np.array_equal(read(source, alpha="drop"), theirs(source, tmp_path))


def test_a_shape_that_white_would_hide_is_refused_with_a_remedy_that_works():
    source = with_alpha("RGBA", colour=255)
    with pytest.raises(BadImage, match=r"'x' is all white .* alpha=black, or alpha=drop"):
        decode(source, "x")
    assert np.array_equal(read(source, alpha="black")[..., 0], SHAPE)
    nothing = Image.new("RGBA", (3, 2), (0, 0, 0, 0))  # a tile beyond the map's edge
    assert read(encoded(nothing, "PNG")).min() == 255


def test_colours_under_alpha_against_pillows_own_composite(tmp_path):
    pixels = np.concatenate([PHOTO, SHAPE[..., None]], -1)
    source = encoded(Image.fromarray(pixels), "PNG")
    ground = Image.new("RGBA", (9, 6), "white")
    ground.alpha_composite(Image.fromarray(pixels))
    assert np.array_equal(read(source), np.asarray(ground.convert("RGB")))
    pixels[..., 3] = 255
    opaque = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(read(opaque), theirs(opaque, tmp_path))
    assert seen(decode(opaque, "x")).done == ()


def test_palettes_and_colour_keys_with_transparency():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 0, 0, 0, 70, 80, 90])
    for kind in ("PNG", "GIF"):
        source = encoded(image, kind, transparency=1)
        assert read(source).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
        assert read(source, alpha="drop").tolist() == [[[10, 20, 30], [0, 0, 0], [70, 80, 90]]]
    half = encoded(image, "PNG", transparency=bytes([255, 255, 51]))  # a fifth of the colour
    assert read(half).tolist() == [[[10, 20, 30], [0, 0, 0], [218, 220, 222]]]
    keyed = encoded(Image.fromarray(np.array([[5, 9]], np.uint8)), "PNG", transparency=5)
    assert read(keyed)[..., 0].tolist() == [[255, 9]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_the_first_of_several_frames_is_read(kind, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "MPO" else {}
    source = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(read(source), theirs(source, tmp_path))
    assert read(source)[0, 0, 0] > 250
    assert seen(decode(source, "x")).done == ("first frame of several",)


DEPTHS = np.array([[0, 255, 256], [4095, 32768, 65535]], np.uint16)


@pytest.mark.parametrize(
    ("top", "scale", "expected"),
    [
        (65535, None, [[0, 0, 1], [15, 128, 255]]),
        (4095, 4095, [[0, 15, 16], [255, 255, 255]]),
        (255, 255, [[0, 255, 255], [255, 255, 255]]),
        (1000, 1000, [[0, 65, 65], [255, 255, 255]]),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_by_its_scale(kind, top, scale, expected):
    source = encoded(Image.fromarray(np.minimum(DEPTHS, top)), kind)
    image = decode(source, "x", Reading(scale=scale))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == expected
    assert seen(image).largest == top


@pytest.mark.parametrize(
    "make",
    [deep_png, tiff, lambda v: tiff(v, order=">")],
    ids=["png", "tiff", "tiff-big-endian"],
)
def test_sixteen_bit_colours_keep_the_depth_that_pillow_drops(make):
    values = RNG.integers(0, 4096, (6, 9, 3), np.uint16)
    values[0, 0, 0] = 4095
    assert np.array_equal(read(make(values), scale=4095), values >> 4)
    assert np.array_equal(read(make(values * 16)), values >> 4)
    assert seen(decode(make(values), "x")).largest == 4095
    with pytest.raises(BadImage, match="no value above 255"):
        decode(make(values >> 4), "x")
    assert np.array_equal(read(make(values >> 4), scale=255), values >> 4)


@pytest.mark.parametrize("bands", [2, 4])
def test_sixteen_bits_with_alpha(bands):
    values = RNG.integers(0, 256, (6, 9, bands), np.uint16) * 257
    values[0, 0, -1] = 0
    eight = Image.fromarray((values >> 8).astype(np.uint8), "LA" if bands == 2 else "RGBA")
    assert np.array_equal(read(deep_png(values)), read(encoded(eight, "PNG")))


def test_eight_bit_values_in_sixteen_bits_are_refused_with_a_remedy_that_works():
    source = encoded(Image.fromarray(np.minimum(DEPTHS, 200)), "PNG")
    with pytest.raises(BadImage, match=r"'x' has 16 bits and no value above 200.*scale=255"):
        decode(source, "x")
    assert read(source, scale=255.0)[..., 0].tolist() == [[0, 200, 200]] * 1 + [[200, 200, 200]]
    assert read(source, scale=65535.0).max() == 0
    black = encoded(Image.fromarray(DEPTHS * 0), "PNG")
    assert read(black).max() == 0


def test_values_beyond_the_scale_are_refused():
    source = encoded(Image.fromarray(DEPTHS), "PNG")
    with pytest.raises(BadImage, match="from 0 to 65535 where white is 4095"):
        decode(source, "x", Reading(scale=4095))


def test_thirty_two_bits_need_a_scale():
    floats = Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32))
    whole = Image.fromarray(np.array([[0, 1000, 4095]], np.int32))
    for image in (floats, whole):
        with pytest.raises(BadImage, match=r"32-bit pixels of unknown range.*scale="):
            decode(encoded(image, "TIFF"), "x")
    assert read(encoded(floats, "TIFF"), scale=1.0)[..., 0].tolist() == [[0, 64, 255]]
    assert read(encoded(whole, "TIFF"), scale=4095.0)[..., 0].tolist() == [[0, 62, 255]]
    nan = Image.fromarray(np.array([[0.0, np.nan]], np.float32))
    with pytest.raises(BadImage, match="nan"):
        decode(encoded(nan, "TIFF"), "x", Reading(scale=1.0))


def test_a_pgm_says_its_own_white():
    values = np.array([[0, 255, 1023]], ">u2")
    image = decode(io.BytesIO(b"P5 3 1 1023\n" + values.tobytes()), "x")
    assert np.asarray(image).tolist() == [[0, 63, 255]]
    assert seen(image).largest is None  # nothing was assumed


@pytest.mark.parametrize("bands", [4, 5, 6])
def test_bands_beyond_three_are_left_out_as_pillow_does(bands, tmp_path):
    values = RNG.integers(0, 256, (6, 9, bands), np.uint8)
    source = tiff(values, extra=0)
    assert np.array_equal(read(source), values[..., :3])
    assert np.array_equal(read(source), theirs(source, tmp_path))
    assert seen(decode(source, "x")).done == ("band beyond RGB left out",)


def test_thirteen_bands_are_refused_by_their_number(tmp_path):
    source = tiff(RNG.integers(0, 256, (6, 9, 13), np.uint8), extra=0)
    with pytest.raises(BadImage, match=r"'x' can't be read \(a TIFF of 13 bands"):
        decode(source, "x")
    (tmp_path / "x.tif").write_bytes(source.getvalue())
    with pytest.raises(BadImage, match="a TIFF of 13 bands"):
        decode(tmp_path / "x.tif", "x")


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "ICO", "JPEG2000", "TGA", "EPS", "PCX", "SGI"])
def test_only_the_formats_listed_are_opened(kind, monkeypatch):
    source = encoded(Image.fromarray(np.tile(PHOTO, (4, 4, 1))), kind)
    Image.init()

    def opened(*_):
        raise AssertionError(f"{kind} was opened")

    monkeypatch.setitem(Image.OPEN, kind, (opened, Image.OPEN[kind][1]))
    with pytest.raises(BadImage, match=f"'x' can't be read .none of {', '.join(FORMATS)}"):
        decode(source, "x")


@pytest.mark.parametrize(
    "error", [KeyError("a"), struct.error("b"), MemoryError(), ZeroDivisionError("d"), TypeError()]
)
def test_whatever_a_decoder_raises_names_the_image(error, monkeypatch):
    from PIL import ImageFile

    def load(_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(BadImage, match=r"image 'x' can't be read \(.+--on-bad-image skip"):
        decode(encoded(Image.fromarray(PHOTO), "PNG"), "x")


def test_damaged_files_of_every_kind_are_bad_images_and_nothing_else():
    """A thousand mutations; 21,809 in a longer run of the same kind, on 131 files."""
    rng = np.random.default_rng(0)
    whole = [deep_png(RNG.integers(0, 65536, (6, 9, bands), np.uint16)) for bands in (1, 2, 3, 4)]
    whole += [tiff(RNG.integers(0, 65536, (6, 9, 4), np.uint16), extra) for extra in (0, 1, 2)]
    for kind in FORMATS:
        for mode in ("RGB", "L"):
            exif = {} if kind in ("BMP", "PPM", "GIF") else {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0"}
            whole.append(encoded(Image.fromarray(PHOTO).convert(mode), kind, **exif))
    reported = []
    for number in range(1000):
        content = bytearray(whole[number % len(whole)].getvalue())
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(0, 256)
        cut = len(content) if number % 3 else int(rng.integers(1, len(content)))
        try:
            decode(io.BytesIO(bytes(content[:cut])), "x").convert("RGB")
        except BadImage as error:
            reported.append(str(error))
    assert 50 < len(reported) < 950
    assert all(line.startswith("image 'x' ") for line in reported)
    assert max(map(len, reported)) < 600
    assert not any("\n" in line for line in reported)


def test_options_are_part_of_a_file_sources_fingerprint_and_of_nothing_else(tmp_path):
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(DEPTHS[:1] * 16).save(tmp_path / f"{name}.png")
    plain = load_dataset(f"folder:{tmp_path}").splits["train"]
    spec = f"folder:{tmp_path}?scale=4096"
    scaled = load_dataset(spec)
    assert scaled.spec == spec
    assert np.asarray(plain.image(0)).tolist() == [[0, 15, 16]]
    assert np.asarray(scaled.splits["train"].image(0)).tolist() == [[0, 254, 255]]
    marks = {plain.fingerprint()} | {
        load_dataset(f"folder:{tmp_path}?{option}").splits["train"].fingerprint()
        for option in ("scale=4096", "scale=65535", "alpha=drop", "orientation=ignore")
    }
    assert len(marks) == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:{}?scale=0", "write a number above 0"),
        ("folder:{}?alpha=grey", "write white or black or drop"),
        ("folder:{}?orientation=up", "write upright or ignore"),
        ("bundled:fashion?alpha=drop", "'alpha' .* is for images in files"),
    ],
)
def test_wrong_options_are_said(tmp_path, spec, message):
    from iceprobe.core.errors import IceprobeError

    (tmp_path / "a").mkdir()
    with pytest.raises(IceprobeError, match=message):
        load_dataset(spec.format(tmp_path))
