"""Tokens made elsewhere are an ordinary store: as scikit-learn reads them, and as extracted ones."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.results.comparison import compare_pair
from iceprobe.store import extract_in_memory
from tests.store.conftest import make_backbone, make_dataset

SETS = {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer}
FAST = {"seeds": 1, "epochs": 2, "learning_rates": [1e-2]}


def halves(name: str):
    """Features and classes of two halves, ``X, y, X of test, y of test``."""
    found = SETS[name]()
    x, xt, y, yt = train_test_split(
        found.data, found.target, test_size=0.4, random_state=0, stratify=found.target
    )
    return x, y, xt, yt


@pytest.mark.parametrize("name", SETS)
def test_probes_read_vectors_as_scikit_learn_does(name, tmp_path):
    x, y, xt, yt = halves(name)
    store = iceprobe.from_tokens({"train": (x, y), "test": (xt, yt)}, name=name)
    linear, knn = iceprobe.fit(store, ["linear", "knn"], output=tmp_path / "run", seeds=1)
    # Of two classes scikit-learn has one vector, w = w₁ − w₀, and ½λ(‖w₀‖² + ‖w₁‖²) is ¼λ‖w‖².
    penalties = 2 if len(store.classes) == 2 else 1
    C = penalties / (linear.selected["weight_decay"] * len(y))
    model = LogisticRegression(C=C, tol=1e-8, max_iter=100_000)
    scaled = make_pipeline(StandardScaler(), model).fit(x, y)
    logits = torch.from_numpy(linear.predictions().logits().values[0].astype(np.float64))
    expected = scaled.predict_proba(xt)
    assert np.abs(logits.softmax(1).numpy() - expected).max() < 0.002  # kept in float16
    assert (linear.predictions().predicted[0] == expected.argmax(1)).all()

    temperature = knn.selected["temperature"]
    neighbours = KNeighborsClassifier(
        n_neighbors=knn.selected["k"],
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    ).fit(x, y)
    assert (knn.predictions().predicted[0] == neighbours.predict(xt)).mean() > 0.99  # ties


@pytest.fixture(scope="module")
def extracted():
    return extract_in_memory(make_backbone(), make_dataset(60, 30), tokens="float32", device="cpu")


def given_again(store, **options):
    """The store of the same tokens, by hand."""
    splits, prefix = {}, {}
    for split in store.splits:
        part = store[split]
        names = np.array(store.classes)[part.labels]
        splits[split] = part.patches(np.arange(len(part))), names
        prefix[split] = part.prefix
    options = {"prefix": prefix, "grid": store.grid, "has_class": True} | options
    return iceprobe.from_tokens(splits, classes=store.classes, **options)


def test_given_tokens_are_the_extracted_ones(extracted, tmp_path):
    store = given_again(extracted)
    assert store.shape == extracted.shape
    assert (store.path, store.task, store.classes) == (None, "classification", extracted.classes)
    for split in store.splits:
        ours, theirs = store[split], extracted[split]
        rows = np.arange(len(ours))
        for one, other in [
            (ours.patches(rows), theirs.patches(rows)),
            (ours.prefix, theirs.prefix),
        ]:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        torch.testing.assert_close(ours.mean, theirs.mean)  # summed in the order of memory
        assert np.array_equal(ours.targets, theirs.targets)
    probes = ["knn", "linear", "ep4", "cbam"]
    fits = [
        iceprobe.fit(one, probes, output=tmp_path / name, **FAST)
        for name, one in (("given", store), ("extracted", extracted))
    ]
    for one, other in zip(*fits, strict=True):
        logits = (result.predictions().logits().values for result in (one, other))
        assert np.array_equal(*logits), one.label
        assert one.score == other.score


def test_everything_downstream_works_or_says_why_not(extracted, tmp_path):
    store = given_again(extracted, name="cells", backbone="mine", groups=None)
    results = iceprobe.fit(store, ["linear", "ep4"], output=tmp_path / "run", **FAST)
    assert (results[0].backbone, results[0].dataset) == ("tokens:mine", "tokens:cells")
    read = iceprobe.read_results(tmp_path / "run")
    assert [one.score for one in read] == [one.score for one in results]
    for number, some in enumerate((results, read)):
        page = iceprobe.report(some, tmp_path / f"{number}.html")
        assert "tokens:cells" in page.read_text()
    assert compare_pair(*results).difference.mean == pytest.approx(
        results[0].score.mean - results[1].score.mean
    )
    (analysis,) = iceprobe.analyze(results, draws=20)
    assert len(analysis.predictors) == 4
    assert analysis.predictors[0].entropy.mean > 0
    again = iceprobe.fit(store, ["linear", "ep4"], output=tmp_path / "run", resume=True, **FAST)
    assert [one.score for one in again] == [one.score for one in results]
    for wrong, words in [
        (lambda: iceprobe.analyze(results, heads=True), "there is no backbone to run"),
        (lambda: iceprobe.analyze(read), "held in memory only"),
        (lambda: iceprobe.load_backbone("tokens:mine"), "no backbone behind them"),
        (lambda: iceprobe.load_dataset("tokens:cells"), "no images behind them"),
        (lambda: store.images("test", [0]), "no images to show"),
        (lambda: store.dataset().splits["test"].image(0), "no image of it"),
        (lambda: iceprobe.segment(store), "has no masks"),
    ]:
        with pytest.raises(IceprobeError, match=words):
            wrong()


def test_attentive_probes_of_vectors_are_refused(tmp_path):
    x, y, xt, yt = halves("wine")
    store = iceprobe.from_tokens({"train": (x, y), "test": (xt, yt)})
    assert (store.num_tokens, store.has_patches, store.grid) == (0, False, None)
    for probe in ("ep4", "cbam", "abmilp"):
        with pytest.raises(IceprobeError, match="one vector of each: take knn or linear"):
            iceprobe.fit(store, [probe], output=tmp_path / "run")
    with pytest.raises(IceprobeError, match="no class token: take input=mean"):
        iceprobe.fit(store, ["linear?input=class"], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_identity_is_the_contents_hash():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4, 6)).astype(np.float32), np.arange(12) % 3

    def identity(x=x, y=y, **options):
        return iceprobe.from_tokens({"train": (x, y), "test": (x, y)}, **options).identity

    first, other, moved = identity(), x.copy(), y[::-1].copy()
    other[3, 2, 1] += 1e-6
    assert identity() == first == identity(torch.from_numpy(x)) == identity(x.tolist())
    assert identity(name="b", backbone="c") == first
    changed = [
        identity(other),
        identity(y=moved),
        identity(x.astype(np.float16)),
        identity(grid=(2, 2)),
        identity(prefix={"train": x[:, :1], "test": x[:, :1]}),
        identity(groups={"train": y, "test": y + 3}),
        identity(names={"train": map_names("a"), "test": map_names("b")}),
    ]
    assert len({first, *changed}) == len(changed) + 1


def map_names(start: str) -> list[str]:
    return [f"{start}{row}" for row in range(12)]


def test_named_examples_are_the_same_for_other_tokens(tmp_path):
    x, y, xt, yt = halves("wine")
    names = {"train": [f"a{i}" for i in range(len(y))], "test": [f"b{i}" for i in range(len(yt))]}
    splits = [{"train": (s * x, y), "test": (s * xt, yt)} for s in (1, np.arange(1, 14))]
    found = [
        iceprobe.fit(
            iceprobe.from_tokens(one, names=names, backbone=f"b{i}"),
            ["knn"],
            output=tmp_path / f"named{i}",
        )[0]
        for i, one in enumerate(splits)
    ]
    assert compare_pair(*found).difference.interval is not None
    assert found[0].predictions().names[:2] == ["b0", "b1"]
    unnamed = iceprobe.fit(iceprobe.from_tokens(splits[0]), ["knn"], output=tmp_path / "unnamed")
    with pytest.raises(IceprobeError, match="different images"):
        compare_pair(found[1], unnamed[0])


@pytest.mark.parametrize(
    ("given", "stored"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("int64", "float32")],
)
def test_dtypes(given, stored):
    x = np.random.default_rng(0).integers(-9, 9, (12, 4, 6)).astype(given)
    y = np.repeat(["a", "b"], 6)
    part = iceprobe.from_tokens({"train": (x, y)})["train"]
    assert str(part.dtype) == f"torch.{stored}"
    assert np.array_equal(part.patches(np.arange(12)).numpy(), x)
    assert part.mean.dtype == torch.float32
    vectors = iceprobe.from_tokens({"train": (x[:, 0], y)})["train"]
    assert np.array_equal(vectors.mean.numpy(), x[:, 0])
    brain = iceprobe.from_tokens({"train": (torch.from_numpy(x).bfloat16(), y)})["train"]
    assert brain.dtype == torch.bfloat16


VECTORS = np.random.default_rng(1).normal(size=(12, 5))
FRACTIONS = np.linspace(0, 1.5, 12)
MATRIX = (np.arange(36).reshape(12, 3) % 4 < 2).astype(int)


@pytest.mark.parametrize(
    ("y", "task", "classes"),
    [
        (["b", "a", "c"] * 4, "classification", ["a", "b", "c"]),
        (np.array(["b", "a", "c"] * 4, object), "classification", ["a", "b", "c"]),
        ([10, 9, 2] * 4, "classification", ["2", "9", "10"]),
        (torch.tensor([1, 0] * 6), "classification", ["0", "1"]),
        ([True, False] * 6, "classification", ["False", "True"]),
        (MATRIX, "multilabel", ["tag 0", "tag 1", "tag 2"]),
        (MATRIX.astype(bool), "multilabel", ["tag 0", "tag 1", "tag 2"]),
        (np.where(np.eye(12, 3) > 0, np.nan, MATRIX), "multilabel", ["tag 0", "tag 1", "tag 2"]),
        (FRACTIONS, "regression", ["y"]),
        (np.stack([FRACTIONS, FRACTIONS**2], 1), "regression", ["y0", "y1"]),
        (np.where(np.arange(12) == 4, np.nan, FRACTIONS), "regression", ["y"]),
    ],
)
def test_the_task_follows_from_y(y, task, classes):
    store = iceprobe.from_tokens({"train": (VECTORS, y), "test": (VECTORS, y)})
    assert (store.task, store.classes) == (task, classes)
    targets = store["train"].targets
    assert targets.shape == ((12,) if task == "classification" else (12, len(classes)))
    if task == "multilabel":
        given = np.asarray(y, float)
        assert np.array_equal(targets, np.where(np.isnan(given), 255, given))
    if task == "regression":
        assert np.array_equal(targets, np.asarray(y).reshape(12, -1), equal_nan=True)
    if task == "classification":
        assert [classes[i] for i in targets] == [str(one) for one in np.asarray(y).tolist()]


def test_what_a_masked_array_hides_is_not_known():
    tags = np.ma.masked_array(MATRIX, np.eye(12, 3) > 0)
    numbers = np.ma.masked_array(FRACTIONS, np.arange(12) == 4)
    for y, unknown in ((tags, 255), (numbers, np.nan)):
        targets = iceprobe.from_tokens({"train": (VECTORS, y)})["train"].targets
        expected = y.astype(float).filled(unknown).reshape(12, -1)
        assert np.array_equal(targets, expected, equal_nan=True)
    classes = np.ma.masked_array(np.arange(12) % 2, np.arange(12) == 7)
    with pytest.raises(IceprobeError, match="y of 'train' is masked at row 7: every example needs"):
        iceprobe.from_tokens({"train": (VECTORS, classes)})


def test_groups_without_a_name_are_their_own_and_said():
    store = iceprobe.from_tokens(
        {"train": (VECTORS, FRACTIONS), "test": (VECTORS, FRACTIONS)},
        groups={
            "train": [1.0, 2.0] * 6,
            "test": ["2", "", "?", None, float("nan"), "3"] + ["1"] * 6,
        },
    )
    assert store.groups("train").tolist() == [0, 1] * 6
    assert store.groups("test").tolist() == [1, 3, 4, 5, 6, 2] + [0] * 6
    assert (
        "4 of 24 examples have no 'group': each is a group of its own"
        in store.manifest.dataset.assumed
    )


def test_a_split_is_not_called_as_out_of_fold_records_are():
    splits = dict.fromkeys(("train", "folds"), (VECTORS, FRACTIONS))
    with pytest.raises(IceprobeError, match=r"split 'folds' of tokens:.* give it another name"):
        iceprobe.from_tokens(splits)


def test_options_of_examples_are_in_the_store():
    y = np.linspace(0, 2.5, 12)
    store = iceprobe.from_tokens(
        {"train": (VECTORS, y), "test": (VECTORS[:4], y[:4])},
        classes=["weight"],
        units=["kg"],
        groups={"train": np.arange(12) // 2, "test": ["a", "a", None, None]},
        slices={"site": {"train": ["x", "y"] * 6, "test": ["y"] * 4}},
        folds={"train": torch.arange(12) % 3, "test": [0.0, 1.0, np.nan, 2.0]},
    )
    record = store.manifest.dataset
    assert (record.units, record.group, record.fold) == (["kg"], "group", "fold")
    assert store.groups("train").tolist() == (np.arange(12) // 2).tolist()
    test = store.groups("test").tolist()
    assert test[0] == test[1]
    assert len(set(test)) == 3  # without a group each is alone
    codes, values = store.slices("test")["site"]
    assert (codes.tolist(), values) == ([1] * 4, ["x", "y"])
    assert store["test"].columns["fold"].tolist() == [0, 1, -1, 2]


def test_task_overrules_and_classes_name():
    splits = {"train": (VECTORS, [0.0, 1.0, 2.0] * 4)}
    numbers = iceprobe.from_tokens(splits, task="regression")
    assert numbers["train"].targets.dtype == np.float64
    named = iceprobe.from_tokens(splits, task="classification", classes=["x", "y", "z"])
    assert (named.classes, named["train"].targets.tolist()) == (["x", "y", "z"], [0, 1, 2] * 4)
    text = {"train": (VECTORS, ["z", "x", "y"] * 4)}
    ordered = iceprobe.from_tokens(text, classes=["z", "y", "x"])
    assert ordered["train"].targets.tolist() == [0, 2, 1] * 4


def test_what_could_be_read_otherwise_is_said(caplog):
    iceprobe.from_tokens({"train": (VECTORS, [0, 1] * 6)})
    assert "read as 2 classes (task=regression reads numbers)" in caplog.text
    caplog.clear()
    tokens = VECTORS[:, None]
    store = iceprobe.from_tokens({"train": (tokens, ["a", "b"] * 6)}, prefix={"train": tokens})
    assert "first prefix token is read as the class token" in caplog.text
    assert store.has_class
    caplog.clear()
    iceprobe.from_tokens(
        {"train": (tokens, ["a", "b"] * 6)}, prefix={"train": tokens}, has_class=False
    )
    iceprobe.from_tokens({"train": (VECTORS, MATRIX)})
    assert not caplog.text


Y = ["a", "b"] * 6
BAD = VECTORS.copy()
BAD[7, 2] = np.nan
FINE = VECTORS + np.array([0, 0, 0, 1e12, 0])


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ([(VECTORS, Y)], 'give {"train"'),
        ({"test": (VECTORS, Y)}, "and no 'train'"),
        ({}, "and no 'train'"),
        ({"train": VECTORS}, "no pair of X and y"),
        ({"train": (VECTORS, Y), "a/b": (VECTORS, Y)}, "no plain name"),
        ({"train": (VECTORS, Y), 3: (VECTORS, Y)}, "no plain name"),
        ({"train": (VECTORS[:, 0], Y)}, r"has the shape \(12,\)"),
        ({"train": (np.zeros((12, 2, 2, 3)), Y)}, r"X.reshape\(n, H \* W, D\)"),
        ({"train": (VECTORS[:11], Y)}, "has 11 examples and y 12"),
        ({"train": (np.zeros((0, 5)), [])}, "'train' is empty"),
        ({"train": (np.zeros((12, 0)), Y)}, "'train' is empty"),
        ({"train": (VECTORS, Y), "test": (np.zeros((0, 5)), [])}, "'test' is empty"),
        ({"train": (VECTORS, Y), "test": (VECTORS[:, :4], Y)}, "tokens of one backbone"),
        ({"train": (VECTORS, Y), "test": (VECTORS[:, None], Y)}, "tokens of one backbone"),
        ({"train": (BAD, Y)}, "example 7 .* is not finite"),
        ({"train": (FINE, Y)}, "float32 is too narrow for dimension 3"),
        ({"train": (1e300 * VECTORS, Y)}, "float32 is too narrow"),
        ({"train": (VECTORS.astype(object), Y)}, "of type object"),
        ({"train": (VECTORS.astype(str), Y)}, "of type <U"),
        ({"train": (VECTORS > 0, Y)}, "of type bool"),
        ({"train": (torch.zeros(12, 5, dtype=torch.complex64), Y)}, "of type torch.complex64"),
        (
            {"train": ([np.zeros((i, 5)) for i in range(12)], Y)},
            r"example 0 .* has the shape \(0, 5\)",
        ),
        (
            {"train": ([torch.zeros(2, i) for i in range(1, 13)], Y)},
            r"has the shape \(2, 2\): give \(N_i, 1\)",
        ),
        ({"train": (VECTORS, Y), "test": (VECTORS, ["a", "d"] * 6)}, "'d' is in split 'test'"),
        ({"train": (VECTORS, Y), "test": (VECTORS, [0, 1] * 6)}, "give both alike"),
        (
            {"train": (VECTORS, MATRIX), "test": (VECTORS, MATRIX[:, :2])},
            "3 columns and of 'test' 2",
        ),
        ({"train": (VECTORS, [["a"], ["b", "c"]] * 6)}, "makes no array"),
        ({"train": (VECTORS, [*Y[1:], None])}, "of several kinds"),
        ({"train": (VECTORS, [["a", "b"]] * 12)}, "MultiLabelBinarizer"),
        ({"train": (VECTORS, np.arange(12.0) % 3)}, "task=classification or task=regression"),
        ({"train": (VECTORS, np.arange(12))}, "12 values among 12"),
        ({"train": (VECTORS, MATRIX + 1)}, "say task=regression"),
        ({"train": (VECTORS, MATRIX[:, :1])}, r"give y\[:, 0\]"),
        ({"train": (VECTORS, np.eye(3, dtype=int)[np.arange(12) % 3])}, "exactly one 1"),
        ({"train": (VECTORS, np.zeros((12, 2, 2)))}, "has the shape"),
        ({"train": (VECTORS, np.ones(12) + 0.5)}, "all the same"),
        ({"train": (VECTORS, np.r_[FRACTIONS[1:], np.inf])}, "give a finite one"),
        ({"train": (VECTORS, np.full(12, np.nan))}, "task=classification or task=regression"),
    ],
)
def test_wrong_arrays_end_in_one_line(splits, words):
    refused(splits, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a?b=c"}, "give a name without"),
        ({"backbone": ""}, "give a name without"),
        ({"task": "regresion"}, "Did you mean regression"),
        ({"task": "segmentation"}, "take one of classification, multilabel, regression"),
        ({"task": "regression"}, "numbers of split 'train' have the shape"),
        ({"task": "multilabel"}, "tags of split 'train' have the shape"),
        ({"metric": "top2"}, "unknown metric of classification"),
        ({"classes": ["a", "c"]}, "row 1: unknown class 'b'"),
        ({"classes": ["a", "b", "a"]}, "names 'a' twice"),
        ({"classes": 3}, "classes="),
        ({"units": ["kg"]}, "of classification"),
        ({"names": {"train": ["x"] * 12}}, "'x' twice"),
        ({"names": {"train": ["x"]}}, "has 1 values for 12"),
        ({"names": ["x"] * 12}, "give {'train': …}"),
        ({"groups": {"test": [1] * 12}}, "groups= is of other splits"),
        ({"groups": {"train": 5}}, "groups= of 'train' has 5 values"),
        ({"folds": {"train": range(12), "test": []}}, "folds= is of other splits"),
        ({"slices": {"train": [1] * 12}}, "slices= has no names of columns"),
        ({"slices": {"group": {"train": [1] * 12}}}, "give it another name"),
        ({"slices": {"site": {"train": [1]}}}, "slices 'site'= of 'train' has 1 values"),
        ({"prefix": {"train": VECTORS}}, r"give \(n, P, D\), here \(12, P, 5\)"),
        ({"prefix": {"train": VECTORS[:, None, :4]}}, "here"),
        ({"grid": (2, 2)}, "X has one vector an example"),
        ({"grids": (2, 2)}, "Did you mean grid"),
        ({"grid": 4}, "grid=4"),
    ],
)
def test_wrong_options_end_in_one_line(options, words):
    refused({"train": (VECTORS, Y)}, words, **options)


def test_a_grid_has_all_tokens():
    refused({"train": (np.ones((12, 6, 5)), Y)}, "has not 6 tokens", grid=(2, 2))
    refused({"train": (np.ones((12, 6, 5)), Y)}, "has not 6 tokens", grid=(-2, -3))


def refused(splits, words, **options):
    with pytest.raises(IceprobeError, match=words) as error:
        iceprobe.from_tokens(splits, **options)
    assert "\n" not in str(error.value)
