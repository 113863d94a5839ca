"""Examples that differ in their number of tokens: on disk end to end, padded when they are read."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iceprobe import from_tokens
from iceprobe.backbones.base import Backbone
from iceprobe.core.checksums import seal
from iceprobe.core.errors import IceprobeError
from iceprobe.store import Store, extract
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.layout import shard_bytes, token_layout
from iceprobe.store.live_split import live
from iceprobe.store.memory import extract_in_memory
from iceprobe.store.writer import repair
from iceprobe.tokens import Tokens, TokenShape
from tests.store.conftest import DIM, PREPROCESSING, SMALL, content, make_dataset

MOST = 23


class BrightReader(nn.Module):
    """As many tokens as the image is bright, scattered among rows of padding that hold NaN."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Linear(16 * 16, MOST * DIM)

    def forward(self, images: Tensor) -> Tokens:
        rows = self.embed(images.flatten(1)).unflatten(1, (MOST, DIM))
        lengths = 1 + (images.flatten(1).sum(1) * 7).long() % MOST
        order = torch.arange(MOST).roll(3)  # the first three rows are the last to be tokens
        mask = order < lengths[:, None]
        patches = rows.masked_fill(~mask[..., None], float("nan"))
        coords = torch.stack([order, -order], 1).float().expand(len(images), -1, -1)
        prefix = rows.amax(1, keepdim=True)
        return Tokens(patches, prefix, None, True, mask=mask, coords=coords)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BrightReader(), PREPROCESSING, spec="test:bright", name="bright")


@pytest.fixture(scope="module")
def truth(backbone) -> list[tuple[Tensor, Tensor]]:
    """Tokens and coordinates of each training image alone, from the reader itself."""
    split, found = make_dataset().splits["train"], []
    for row in range(len(split)):
        tokens = backbone.reader(PREPROCESSING.transform(split.image(row))[None])
        found.append((tokens.patches[0][tokens.mask[0]], tokens.coords[0][tokens.mask[0]]))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("where", ["disk", "memory", "held", "partly held"])
def test_each_example_has_its_own_tokens(backbone, truth, tmp_path, dtype, where):
    dataset, options = make_dataset(), dict(tokens=dtype) | SMALL
    if where == "memory":
        store = extract_in_memory(backbone, dataset, **options)
    else:
        store = Store.open(extract(backbone, dataset, tmp_path, **options).path)
    split = store["train"]
    if where.endswith("held"):
        split = split.hold(10**9 if where == "held" else split.patch_bytes // 2)
        assert split.held == (where == "held")
        assert split.resident.any()
    lengths = [len(tokens) for tokens, _ in truth]
    assert split.lengths.tolist() == lengths
    counted = [*lengths, *store["test"].lengths]
    assert store.shape.lengths == (min(counted), max(counted))
    assert store.num_tokens == round(np.mean(counted))
    rows = np.random.default_rng(0).integers(0, len(split), 70)
    tokens = split.tokens(rows)
    assert tokens.mask.sum(1).tolist() == [lengths[row] for row in rows]
    for one, mask, coords, row in zip(
        tokens.patches, tokens.mask, tokens.coords, rows, strict=True
    ):
        expected, places = truth[row]
        rounded = {"float32": 1e-5, "float16": 2e-3, "int8": 1e-2}[dtype] * expected.abs().max()
        torch.testing.assert_close(one[mask], expected, atol=float(rounded), rtol=0)
        assert (one[~mask] == 0).all()
        assert torch.equal(coords[mask], places)
    means = torch.stack([truth[row][0].mean(0) for row in rows])
    torch.testing.assert_close(split.mean[rows], means, atol=1e-5, rtol=1e-5)


def test_augmented_views_may_have_other_lengths(backbone, tmp_path):
    options = dict(views=2, tokens="float32") | SMALL
    store = Store.open(extract(backbone, make_dataset(), tmp_path, **options).path)
    kept = extract_in_memory(backbone, make_dataset(), views=2, tokens="float32", batch_size=4)
    views, rows = store["train"].views, np.arange(100)
    assert (views.lengths.reshape(2, -1) != store["train"].lengths).any()
    mine, theirs = views.tokens(rows), kept["train"].views.tokens(rows)
    assert torch.equal(mine.mask, theirs.mask)
    torch.testing.assert_close(mine.patches, theirs.patches, atol=1e-5, rtol=1e-5)
    means = (mine.patches.sum(1) / mine.mask.sum(1, keepdim=True)).float()
    torch.testing.assert_close(views.mean[rows], means, atol=1e-5, rtol=1e-5)


def test_a_shard_holds_little_beside_the_tokens():
    """Headers, lengths, checks, means and targets together."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(50), np.log(5000), 64)).astype(int)
    shape = TokenShape(768, 1000, 0, None, False, lengths=(50, 5000))
    layout = token_layout(shape, ExtractionSettings())
    layout |= {"label": (torch.int64, ()), "index": (torch.int64, ())}
    whole, own = shard_bytes(64, layout, tokens=int(lengths.sum())), lengths.sum() * 768 * 2
    assert own < whole < 1.01 * own


def test_files_are_as_long_as_their_tokens(backbone, tmp_path):
    store = extract(backbone, make_dataset(), tmp_path, tokens="float32", **SMALL)
    for split, record in store.manifest.splits.items():
        lengths = store[split].lengths
        for shard in record.shards:
            mine = lengths[shard.start : shard.stop]
            assert shard.tokens == (mine.sum(), mine.min(), mine.max())
            a_token, beside = 4 * (DIM + 2), 8 * 3 + 8 + 16 + 4 * DIM * 2 + 4096
            assert abs(shard.bytes - mine.sum() * a_token - len(mine) * beside) < 4096 * len(mine)
            assert shard.bytes == (store.path / shard.file).stat().st_size


def test_a_stopped_extraction_ends_with_the_same_bytes(backbone, tmp_path):
    dataset = make_dataset()
    whole = extract(backbone, dataset, tmp_path / "whole", **SMALL)

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done > 24:
            raise Stop

    with pytest.raises(Stop):
        extract(backbone, dataset, tmp_path / "stopped", progress=stop, **SMALL)
    again = extract(backbone, dataset, tmp_path / "stopped", **SMALL)
    assert content(again.path) == content(whole.path)


def test_a_damaged_example_is_found_and_repaired(backbone, tmp_path):
    dataset = make_dataset()
    store = extract(backbone, dataset, tmp_path, **SMALL)
    before, shard = content(store.path), store.manifest.splits["train"].shards[1]
    path = store.path / shard.file
    damaged = bytearray(path.read_bytes())
    place = (
        4096 + int(store["train"].lengths[10:13].sum()) * DIM * 2 + 5
    )  # of the shard's fourth image
    damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    split = Store.open(store.path)["train"]
    split.patches([9, 10, 11, 12, 14])
    with pytest.raises(IceprobeError, match="patches of image 3 aren't what was written"):
        split.patches([13])
    assert repair(store.path, backbone, dataset) == [shard.file]
    assert content(store.path) == before


def test_a_manifest_that_lies_about_the_tokens_is_refused(backbone, tmp_path):
    store = extract(backbone, make_dataset(), tmp_path, **SMALL)
    manifest = store.path / "manifest.json"
    text = json.loads(manifest.read_text())
    identity = text.pop("identity")
    text.pop("content", None)
    text.pop("sha256", None)
    text["splits"]["train"]["shards"][0]["tokens"][0] += 1
    manifest.write_text(json.dumps({"identity": identity} | seal(text)))
    with pytest.raises(IceprobeError, match="doesn't fit 10 images"):
        Store.open(store.path)


def test_live_tokens_are_refused(backbone):
    with pytest.raises(IceprobeError, match="differ in their number of tokens"):
        live(backbone, make_dataset())


def bags(n: int, seed: int, dtype=np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, 8)).astype(dtype) for k in rng.integers(1, 40, n)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_list_of_bags(dtype):
    x, y = bags(60, 0, dtype), np.arange(60) % 3
    cells = [np.stack([np.arange(len(one)), np.zeros(len(one))], 1) for one in x]
    store = from_tokens(
        {"train": (x, y), "test": (x[:30], y[:30])}, coords={"train": cells, "test": cells[:30]}
    )
    rows = [5, 59, 0]
    tokens = store["train"].tokens(rows)
    for one, mask, coords, row in zip(
        tokens.patches, tokens.mask, tokens.coords, rows, strict=True
    ):
        assert np.array_equal(one[mask].numpy(), x[row].astype(np.float32))
        assert np.array_equal(coords[mask].numpy(), cells[row])
    assert store.shape.lengths == (min(map(len, x)), max(map(len, x)))
    assert store.shape.coords == 2
    expected = np.stack([one.astype(np.float64).mean(0) for one in x])
    np.testing.assert_allclose(store["train"].mean, expected, atol=1e-3)


def test_bags_of_one_length_are_the_same_as_an_array():
    x, y = np.random.default_rng(0).normal(size=(30, 5, 8)).astype(np.float32), np.arange(30) % 3
    array = from_tokens({"train": (x, y), "test": (x, y)})
    assert array.shape.lengths is None
    assert from_tokens({"train": (list(x), y), "test": (list(x), y)}).identity == array.identity


def test_an_identity_knows_where_a_bag_ends():
    flat, y = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32), np.array([0, 1, 0])
    first, second = (np.split(flat, ends) for ends in ([3, 8], [4, 8]))
    stores = [from_tokens({"train": (one, y), "test": (one, y)}) for one in (first, second)]
    assert stores[0].identity != stores[1].identity


def test_arrays_and_lists_may_be_mixed():
    x, y = np.random.default_rng(0).normal(size=(30, 5, 8)).astype(np.float32), np.arange(30) % 3
    store = from_tokens({"train": (x, y), "test": (bags(30, 0), y)})
    assert store.shape.ragged
    assert np.array_equal(store["train"].patches([4])[0].numpy(), x[4])


def _changed(x: list[np.ndarray], row: int, by) -> list[np.ndarray]:
    return [by(one) if number == row else one for number, one in enumerate(x)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda one: one[:0], r"example 7 \('train/000007'\) has the shape \(0, 8\)"),
        (lambda one: one[:, :5], r"example 7 \('train/000007'\) has the shape \(\d+, 5\): give \(N_i, 8\)"),
        (lambda one: one * np.nan, r"example 7 \('train/000007'\) is not finite"),
        (lambda one: one.astype(str), "X of 'train', example 7, is of type"),
    ],
)  # fmt: skip
def test_a_wrong_bag_is_named(change, line):
    x, y = bags(30, 0), np.arange(30) % 3
    with pytest.raises(IceprobeError, match=line):
        from_tokens({"train": (_changed(x, 7, change), y), "test": (x, y)})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"grid": (3, 3)}, "differ in their number of tokens: give coords"),
        ({"coords": {"train": [np.zeros((1, 2))] * 30, "test": [np.zeros((1, 2))] * 30}}, "aren't of these tokens"),
        ({"coords": {"train": [], "test": []}}, "aren't of these tokens"),
    ],
)  # fmt: skip
def test_places_that_fit_no_bag(options, line):
    x, y = bags(30, 0), np.arange(30) % 3
    with pytest.raises(IceprobeError, match=line):
        from_tokens({"train": (x, y), "test": (x, y)}, **options)


@pytest.mark.parametrize("shape", [(30, 5, 8), (30, 8)])
def test_one_number_an_example_is_no_place_of_its_tokens(shape):
    x, y = np.zeros(shape), np.arange(30) % 3
    with pytest.raises(IceprobeError, match="aren't of these tokens"):
        from_tokens({"train": (x, y)}, coords={"train": np.zeros(shape[:2])})


def test_arrays_of_several_lengths_are_to_be_lists():
    rng, y = np.random.default_rng(0), np.arange(30) % 3
    with pytest.raises(IceprobeError, match=r"or lists of \(N_i, D\)"):
        from_tokens(
            {"train": (rng.normal(size=(30, 5, 8)), y), "test": (rng.normal(size=(30, 6, 8)), y)}
        )
