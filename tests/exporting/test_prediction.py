"""`predict`: the table, the maps, and that nothing half-written stays."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_cell
from iceprobe.exporting import ExportedProbe, predict
from iceprobe.exporting.maps import MapWriter
from iceprobe.tokens import Tokens
from tests.exporting.conftest import BRIGHT, untrained

CLASSES = ["=SUM(A1)", 'a "b", c', "two\nlines", "Ωmega", "plain", "sixth"]


@pytest.fixture(scope="module")
def model() -> ExportedProbe:
    return untrained(BRIGHT, "ep4", CLASSES)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five pictures with one bright patch each, at any depth, and what isn't a picture."""
    folder = tmp_path / "images"
    (folder / "deep" / "er").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a,b.PNG", "deep/er/ü.png", "deep/x.png", "deep/y.bmp"]):
        Image.fromarray(picture(3 * i)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


NAMES = ["a,b.PNG", "b.png", "deep/er/ü.png", "deep/x.png", "deep/y.bmp"]  # by their paths


def picture(patch: int) -> np.ndarray:
    pixels = np.full((32, 32, 3), 40, np.uint8)
    row, column = divmod(patch, 4)
    pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 250
    return pixels


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_other_formats_are_counted_and_reported(model, images, tmp_path, caplog):
    for index in range(24):
        Image.fromarray(picture(0)).save(images / "deep" / f"{index:02d}.gif")
    assert predict(model, images, tmp_path / "p.csv").images == 5
    assert [row["file"] for row in table(tmp_path / "p.csv")] == NAMES
    assert caplog.messages == [
        f"assumed: folder '{images}': 25 of 30 files are no images that folder: reads and are left "
        "out (24 .gif, 1 .txt; 'deep/00.gif' first)"
    ]


def test_table_has_every_image_and_its_best_classes(model, images, tmp_path):
    steps = []
    done = predict(
        model,
        images,
        tmp_path / "p.csv",
        top=3,
        batch_size=2,
        progress=lambda *step: steps.append(step),
    )
    rows = table(tmp_path / "p.csv")
    assert [row["file"] for row in rows] == NAMES
    assert list(rows[0])[1:] == [
        "class",
        "probability",
        "class_2",
        "probability_2",
        "class_3",
        "probability_3",
    ]
    pixels = torch.from_numpy(
        np.stack([np.asarray(Image.open(images / name)) for name in NAMES]).transpose(0, 3, 1, 2)
    )
    logits = model(pixels / 255).double()
    for row, exponentials in zip(rows, logits.exp(), strict=True):
        order = sorted(range(6), key=lambda c: -exponentials[c])
        for place, suffix in enumerate(["", "_2", "_3"]):
            assert csv_cell(row[f"class{suffix}"]) == CLASSES[order[place]]
            probability = float(exponentials[order[place]] / exponentials.sum())
            assert float(row[f"probability{suffix}"]) == pytest.approx(probability, rel=1e-4)
    assert (done.images, done.skipped, done.maps) == (5, [], [])
    assert steps == [("predict", 2, 5), ("predict", 4, 5), ("predict", 5, 5)]


def test_top_is_at_most_all_classes_and_batches_change_nothing(model, images, tmp_path):
    predict(model, images, tmp_path / "a.csv", top=100, batch_size=64)
    predict(model, images, tmp_path / "b.csv", top=6, batch_size=1, workers=1)
    for one, other in zip(table(tmp_path / "a.csv"), table(tmp_path / "b.csv"), strict=True):
        for key in one:
            if key.startswith("probability"):
                assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-4)
            else:
                assert one[key] == other[key]
    assert len(table(tmp_path / "a.csv")[0]) == 1 + 2 * 6


def test_the_forward_pass_has_the_dtype_of_the_run(images, tmp_path):
    seen = untrained(BRIGHT, "ep4", CLASSES)
    seen.amp = "bfloat16"
    predict(seen, images, tmp_path / "run.csv")
    for amp in ("bfloat16", "float32"):
        predict(seen, images, tmp_path / f"{amp}.csv", amp=amp)
    assert table(tmp_path / "run.csv") == table(tmp_path / "bfloat16.csv")
    assert table(tmp_path / "run.csv") != table(tmp_path / "float32.csv")


def test_a_name_that_is_no_utf8_is_written_as_utf8(model, images, tmp_path):
    odd = b"\xff.png".decode("utf-8", "surrogateescape")
    (images / odd).write_bytes((images / "b.png").read_bytes())
    predict(model, images, tmp_path / "p.csv")
    assert [row["file"] for row in table(tmp_path / "p.csv")][-1] == "\\udcff.png"


def test_unreadable_images(model, images, tmp_path):
    (images / "deep" / "bad.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(IceprobeError, match=r"deep/bad\.png.*--on-bad-image skip"):
        predict(model, images, tmp_path / "new" / "p.csv", maps=tmp_path / "maps", batch_size=1)
    assert sorted(tmp_path.rglob("*")) == before
    done = predict(
        model,
        images,
        tmp_path / "p.csv",
        maps=tmp_path / "maps",
        batch_size=1,
        on_bad_image="skip",
    )
    assert (done.images, done.skipped) == (5, ["deep/bad.png"])
    assert [row["file"] for row in table(tmp_path / "p.csv")] == NAMES
    assert sum(path.is_file() for path in (tmp_path / "maps").rglob("*")) == 5


def test_when_none_can_be_read_there_is_no_table(model, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(IceprobeError, match="none of the 1 images"):
        predict(model, tmp_path / "images", tmp_path / "p.csv", on_bad_image="skip")
    assert not (tmp_path / "p.csv").exists()


def test_ctrl_c_leaves_the_old_table_and_no_maps(model, images, tmp_path):
    (tmp_path / "p.csv").write_text("old")
    before = sorted(tmp_path.rglob("*"))

    def stop(_: str, done: int, __: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(
            model,
            images,
            tmp_path / "p.csv",
            maps=tmp_path / "some" / "maps",
            batch_size=1,
            progress=stop,
        )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "p.csv").read_text() == "old"


def test_maps_glow_where_the_query_looks(images, tmp_path):
    model = untrained(BRIGHT, "ep2", ["a", "b"])
    query = torch.zeros(2, 16)
    query[0, 0] = 80.0  # the first feature is a patch's brightness; the second query is uniform
    model.probe.pooling.query.data = query
    done = predict(model, images, tmp_path / "p.csv", maps=tmp_path / "maps", batch_size=2)
    assert done.maps == ["predictor 1", "predictor 2"]
    for i, name in enumerate(["b.png", "a,b.PNG", "deep/er/ü.png", "deep/x.png", "deep/y.bmp"]):
        image, looks, uniform = tiles_of(tmp_path / "maps" / f"{name}.png")
        side = len(image)
        row, column = divmod(3 * i, 4)
        cell = np.s_[
            row * side // 4 : (row + 1) * side // 4, column * side // 4 : (column + 1) * side // 4
        ]
        assert image[cell].mean() > 200  # the picture itself comes first
        colour = looks.max(2) - looks.min(2)
        inside = colour[cell].mean()
        assert inside > 20
        assert inside > 3 * (colour.sum() - colour[cell].sum()) / (side**2 * 15 / 16)
        assert (uniform.max(2) - uniform.min(2)).max() <= 2


def test_groups_are_the_same_in_every_batch(tmp_path):
    """Nine queries read feature 0, four feature 1, three feature 2."""
    model = untrained(BRIGHT, "ep16", ["a", "b"])
    wanted = torch.tensor(9 * [0] + 4 * [1] + 3 * [2])
    model.probe.pooling.query.data = 80.0 * torch.nn.functional.one_hot(wanted, 16).float()
    writer = MapWriter(model, tmp_path)
    # Where features 0, 1 and 2 are: in the second batch 0 and 2 are the same.
    for name, places in (("a", (0, 5, 10)), ("b", (15, 5, 15))):
        patches = torch.zeros(1, 16, 16)
        for feature, place in enumerate(places):
            patches[0, place, feature] = 1.0
        tokens = Tokens(patches, patches[:, :0], (4, 4))
        writer.write(tokens, [Image.new("L", (32, 32))], [name])
        _, *maps = tiles_of(tmp_path / f"{name}.png")
        assert [glowing_patch(one) for one in maps] == list(places)
    assert writer.titles == ["group 1: 9 of 16", "group 2: 4 of 16", "group 3: 3 of 16"]


def tiles_of(path: Path) -> list[np.ndarray]:
    """The pictures in a row, each ``(side, side, 3)``."""
    row = np.asarray(Image.open(path)).astype(int)
    side = row.shape[0]
    return [row[:, left : left + side] for left in range(0, row.shape[1], side + 4)]


def glowing_patch(picture: np.ndarray) -> int:
    """The patch of a 4 x 4 grid in which the strongest colour is."""
    colour = picture.max(2) - picture.min(2)
    y, x = np.unravel_index(colour.argmax(), colour.shape)
    return int(4 * (y * 4 // len(colour)) + x * 4 // len(colour))


def test_what_has_no_maps_says_so(images, tmp_path):
    model = untrained(BRIGHT, "linear", ["a", "b"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(IceprobeError, match="no attention: leave --maps out"):
        predict(model, images, tmp_path / "p.csv", maps=tmp_path / "maps")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"amp": "float8"}, "float8"),
        ({"device": "gpu"}, "gpu"),
        ({"on_bad_image": "ignore"}, "ignore"),
    ],
)
def test_wrong_options(model, images, tmp_path, options, words):
    with pytest.raises(IceprobeError, match=words):
        predict(model, images, tmp_path / "p.csv", **options)
    assert not (tmp_path / "p.csv").exists()


def test_accuracy_of_the_table_is_that_of_the_run(results, exported, clutter, tmp_path):
    """On the test images written as PNG, which loses nothing; stored tokens were float16."""
    result = results["ep12"]
    (tmp_path / "images").mkdir()
    split, rows = clutter.splits["test"], result.open_store["test"].index.tolist()
    for row in rows:
        split.image(row).save(tmp_path / "images" / f"{row:05d}.png")
    model = iceprobe.load_probe(exported)
    predict(model, tmp_path / "images", tmp_path / "p.csv", top=2)
    found = table(tmp_path / "p.csv")
    guesses = np.array([clutter.classes.index(row["class"]) for row in found])
    stored = result.predictions().predicted[1]
    gap = np.array([float(row["probability"]) - float(row["probability_2"]) for row in found])
    clear = gap > 0.01
    assert clear.mean() > 0.9
    assert np.array_equal(guesses[clear], stored[clear])
    accuracy = float((guesses == split.labels[rows]).mean())
    assert abs(accuracy - result.top1.values[1]) <= (~clear).mean()
