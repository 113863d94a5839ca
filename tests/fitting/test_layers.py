"""A probe on several layers is the same probe on what a hand concatenates of them."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import Feed, tensors_read
from iceprobe.fitting.logistic import Problem
from iceprobe.fitting.losses import solver_loss
from iceprobe.fitting.memory import cache_tokens, step_memory
from iceprobe.fitting.selection import grids_of, run_protocol
from iceprobe.protocols.protocol import protocol_of
from iceprobe.settings import Fitting
from iceprobe.store import Store
from tests.fitting.layers import (
    CLASSES,
    DEPTH,
    DIM,
    LAYERS,
    by_hand,
    columns_of,
    layers,
    one_layer,
    targets_of,
)

F64 = torch.float64
CPU = torch.device("cpu")


@pytest.fixture
def float64():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


def fitted(store: Store, labels: list[str], **settings):
    """The fitted modules of the probes, in float64."""
    protocol = protocol_of(Fitting(**settings))
    context = FitContext(
        protocol, store.shape, CLASSES, 0, CPU, F64, Checkpoint(None, ""), lambda *_: None
    )
    parameters = {one: context.build(one).num_parameters()["total"] for one in labels}
    grids = grids_of(protocol, parameters, len(store["train"]))
    found, *_ = run_protocol(
        store, grids, context, seeds=[0], split="test", memory=None, shuffle="auto", saved=None
    )
    return {one.label: one for one in found}


PAIRS = [  # on several layers, on what a hand made of them, and how
    ("linear?input=class+mean&layers=-2,-1", "linear?input=mean", "vector"),
    ("mean_value?layers=-2,-1", "mean_value", "width"),
    ("ep4?layers=-2,-1", "ep4", "tokens"),
    ("ep4?join=width&layers=-2,-1", "ep4", "width"),
    ("aim4?layers=4,5", "aim4", "tokens"),
    ("clip4?join=width&layers=4,5", "clip4", "width"),
    ("block4?layers=4,5", "block4", "tokens"),
]


@pytest.mark.parametrize(("label", "plain", "kind"), PAIRS)
def test_weights_are_those_of_the_concatenated_arrays(label, plain, kind, float64):
    joined = Store.joined(layers(F64))
    both = [
        fitted(store, [probe], protocol="paper", epochs=2)[probe]
        for store, probe in ((joined, label), (by_hand(kind, F64), plain))
    ]
    ours, theirs = (one.probes[0].state_dict() for one in both)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 1
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-12)
    assert both[0].probes[0].num_parameters() == both[1].probes[0].num_parameters()


def test_the_optimum_is_that_of_the_concatenated_arrays(float64):
    label = "linear?input=class+mean&layers=-2,-1"
    ours = fitted(Store.joined(layers(F64)), [label])[label]
    theirs = fitted(by_hand("vector", F64), ["linear?input=mean"])["linear?input=mean"]
    assert ours.selected["weight_decay"] == theirs.selected["weight_decay"]
    for name, weight in ours.probes[0].state_dict().items():
        torch.testing.assert_close(weight, theirs.probes[0].state_dict()[name], rtol=0, atol=1e-9)


def test_members_with_other_inputs_change_nothing(float64):
    store = Store.joined(layers(F64))
    labels = [label for label, *_ in PAIRS] + ["ep4?layers=5", "linear?layers=4"]
    crowd = fitted(store, labels, protocol="paper", epochs=1)
    for label in ("ep4?layers=-2,-1", "linear?layers=4"):
        alone = fitted(store, [label], protocol="paper", epochs=1)[label]
        for name, weight in alone.probes[0].state_dict().items():
            mine = crowd[label].probes[0].state_dict()[name]
            torch.testing.assert_close(weight, mine, rtol=0, atol=1e-12)


def test_scikit_learn_agrees_at_the_same_regularisation():
    store, plain = Store.joined(layers()), by_hand("vector")
    name, decay = "class+mean@4,5", 0.01
    feed = Feed(store["train"], np.arange(150), {name}, CPU, torch.float32)
    rows = partial(_rows, feed, name)
    loss = solver_loss("softmax", store["train"].targets, CLASSES)
    problem = Problem(rows, 150, 3 * DIM, loss, CPU, False)
    solution = problem.solve(decay)
    vectors = {one: plain[one].mean.numpy().astype(np.float64) for one in ("train", "test")}
    labels = {one: plain[one].labels for one in ("train", "test")}
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / (150 * decay), tol=1e-8, max_iter=10_000)
    )
    model.fit(vectors["train"], labels["train"])
    scaled = (torch.from_numpy(vectors["test"]) - problem.mean) * problem.inverse
    ours = (scaled @ solution.weight.double().mT + solution.bias).argmax(1).numpy()
    assert (ours == labels["test"]).mean() == pytest.approx(
        model.score(vectors["test"], labels["test"]), abs=1e-3
    )
    assert 0.5 < (ours == labels["test"]).mean() < 1


def _rows(feed, name):
    return ((batch.inputs[name], batch.labels) for batch in feed.in_order(64))


def scaled_vectors(plain: Store) -> dict[str, np.ndarray]:
    """The concatenated vectors, standardised by those of train."""
    found = {name: plain[name].mean.numpy().astype(np.float64) for name in ("train", "test")}
    scaler = StandardScaler().fit(found["train"])
    return {name: scaler.transform(vectors) for name, vectors in found.items()}


def test_logreg_is_scikit_learns_on_the_concatenated_vectors(float64):
    label = "logreg?C=1&input=class+mean&layers=-2,-1"
    ours = fitted(Store.joined(layers(F64)), [label])[label]
    plain = by_hand("vector", F64)
    scaled = scaled_vectors(plain)
    reference = LogisticRegression(C=1, tol=1e-10, solver="newton-cholesky")
    reference.fit(scaled["train"], plain["train"].labels)
    with torch.no_grad():
        found = ours.probes[0](plain["test"].mean).numpy()
    expected = reference.decision_function(scaled["test"])
    found, expected = (x - x.mean(1, keepdims=True) for x in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert ours.selected["C"] == 1
    assert ours.probes[0].num_parameters()["total"] == 3 * DIM * CLASSES + CLASSES


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_tags_and_numbers_on_several_layers(task, tmp_path):
    """Every kind of probe gives what it gives on the concatenated vectors, in folds and columns too."""
    solved = "logreg?C=1" if task == "multilabel" else "ridge?alpha=1"
    vector = "input=class+mean&layers=-2,-1"
    asked = dict(seeds=1, epochs=2, min_steps=4, learning_rates=[1e-2], progress=False)
    ours = iceprobe.fit(
        layers(task=task), [f"knn?{vector}", f"{solved}&{vector}", "ep2?layers=-2,-1"],
        output=tmp_path / "ours", **asked,
    )  # fmt: skip
    plain = by_hand("vector", task=task)
    theirs = iceprobe.fit(plain, ["knn", f"{solved}&input=mean"], output=tmp_path / "hand", **asked)
    for one, other in zip(ours[:2], theirs, strict=True):
        assert one.selected == pytest.approx(other.selected, rel=1e-6)
        for name, score in one.metrics.items():
            assert score.mean == pytest.approx(other.metrics[name].mean, abs=1e-6)
        assert np.array_equal(one.predictions().groups, columns_of("test")["patient"])
        assert list(one.predictions().slices) == ["site@4"]
    assert [one.task for one in ours] == [task] * 3
    assert ours[2].parameters.total > 0
    scaled, targets = scaled_vectors(plain), targets_of("train", task).numpy()
    with torch.no_grad():
        found = ours[1].probes[0](plain["test"].mean).numpy()
    for column, truth in enumerate(targets.T):
        known = np.isin(truth, (0, 1)) if task == "multilabel" else ~np.isnan(truth)
        model = LogisticRegression(C=1, tol=1e-10) if task == "multilabel" else Ridge(alpha=1)
        model.fit(scaled["train"][known], truth[known])
        predict = model.decision_function if task == "multilabel" else model.predict
        tolerance = 2e-3 * truth[known].std() if task == "regression" else 2e-3
        np.testing.assert_allclose(found[:, column], predict(scaled["test"]), atol=tolerance)
    folded = iceprobe.fit(
        layers(task=task), [f"{solved}&{vector}"], folds=3, output=tmp_path / "folds", **asked
    )
    assert folded[0].test_images == len(targets)


def test_what_a_joined_store_says_of_its_images_is_what_each_layer_says():
    stores = layers(task="multilabel")
    store, one = Store.joined(stores), stores[0]
    assert store.task == "multilabel"
    for split in ("train", "test"):
        store.check_targets(split)
        assert np.array_equal(store[split].targets, one[split].targets)
        assert np.array_equal(store.groups(split), one.groups(split))
        codes, names = store.beside(split)["slices"]["site@4"]
        assert np.array_equal(codes, columns_of(split)["site@4"])
        assert names == ["north", "south"]
    grouped = store.grouped_by("site@4")
    assert np.array_equal(grouped.groups("test"), columns_of("test")["site@4"])
    assert list(grouped.layers) == list(LAYERS)
    held_out = np.arange(0, 150, 3)
    part = grouped.fold(held_out)
    assert (len(part["train"]), len(part["folds"])) == (100, 50)
    assert np.array_equal(part.groups("folds"), columns_of("train")["site@4"][held_out])
    for layer, store_of_layer in part.layers.items():
        expected = stores[LAYERS.index(layer)]["train"].mean[held_out]
        assert torch.equal(part["folds"].vector("mean", layer), expected)
        assert torch.equal(store_of_layer["folds"].mean, expected)
    other = layers(task="regression")
    with pytest.raises(IceprobeError, match="layers 4 and 5 differ in the task"):
        Store.joined([one, other[1]])


def test_vectors_side_by_side_of_given_tokens(tmp_path):
    vectors = {name: one_layer(5, torch.float32)[name] for name in ("train", "test")}
    given = iceprobe.from_tokens(
        {name: (one.patches(np.arange(len(one))), one.labels) for name, one in vectors.items()},
        prefix={name: one.prefix for name, one in vectors.items()},
    )
    (result,) = iceprobe.fit(
        given, ["logreg?C=1&input=class+mean"], output=tmp_path / "r", seeds=1, progress=False
    )
    assert result.parameters.total == 2 * DIM * CLASSES + CLASSES
    with pytest.raises(IceprobeError, match="is not of one layer by its number"):
        Store.joined([given])


def test_nearest_neighbours_are_those_of_the_concatenated_vectors(tmp_path):
    store, plain = Store.joined(layers()), by_hand("vector")
    found = iceprobe.knn(store, "knn?layers=-2,-1&input=class+mean", progress=False)
    same = iceprobe.knn(plain, "knn", progress=False)
    assert found.top1 == same.top1
    assert found.selected == same.selected
    k = int(found.selected["k"])
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda d: np.exp((1 - d) / found.selected["temperature"])
    )
    reference.fit(plain["train"].mean.numpy(), plain["train"].labels)
    assert found.top1.mean == pytest.approx(
        reference.score(plain["test"].mean.numpy(), plain["test"].labels), abs=1e-9
    )


def test_one_layer_may_give_several_vectors(tmp_path):
    results = iceprobe.fit(
        one_layer(5, torch.float32),
        ["linear?input=class+mean", "knn?input=class+mean", "ep4?input=class+patches"],
        output=tmp_path / "run", seeds=1, epochs=1, protocol="paper", progress=False,
    )  # fmt: skip
    assert [one.parameters.total for one in results[:2]] == [2 * DIM * CLASSES + CLASSES, 0]


def test_results_and_low_shot_draws_of_several_layers(tmp_path):
    labels = ["knn?layers=-2,-1", "linear?layers=-2,-1&input=class+mean", "ep4?layers=-2,-1"]
    asked = dict(output=tmp_path / "run", shots=10, replicates=2, epochs=2, progress=False)
    results = iceprobe.fit(layers(), labels, **asked)
    (reference,) = {one.store.model_dump_json() for one in results}
    read = iceprobe.read_results(tmp_path / "run")
    assert [one.store.model_dump_json() for one in read] == [reference] * 3
    assert read[0].store.depth == DEPTH
    assert len(read[0].store.layers) == 2
    assert [one.train_images for one in read] == [30] * 3
    assert read[0].layer is None
    again = iceprobe.fit(layers(), labels, **asked)  # finished: read from the folder
    weights = [one.probes[0].classifier.weight for one in (results[2], again[2])]
    assert torch.equal(*weights)


def test_only_layers_that_are_read_are_held(caplog):
    store = Store.joined(layers(numbers=(3, 4, 5)))
    split = store["train"]
    names = tensors_read({"patches@4,5"})
    assert names == ["patches@4", "patches@5"]
    each = 4 * DIM * 4  # bytes of one layer's patches in float32
    assert split.patch_bytes == 150 * 3 * each
    assert split.reading(names).patch_bytes == 150 * 2 * each
    train, _, shuffle = cache_tokens(
        split.reading(names), split, {"patches@4,5"}, 10**9, "auto",
        batch_size=16, beside=0, evaluated=False,
    )  # fmt: skip
    assert train.held
    assert shuffle.by == "rows"


def test_memory_counts_every_layer():
    settings = dict(protocol="paper", epochs=1)
    store = Store.joined(layers())
    context = FitContext(
        protocol_of(Fitting(**settings)), store.shape, CLASSES, 0, CPU, torch.float32,
        Checkpoint(None, ""), lambda *_: None,
    )  # fmt: skip
    each = 4 * DIM * 4
    one = step_memory({"ep4?layers=5": 1}, context, 150, each)
    more = step_memory({"ep4?layers=4,5": 1}, context, 150, 2 * each)
    wide = step_memory({"ep4?join=width&layers=4,5": 1}, context, 150, 2 * each)
    assert 1.5 * one.per_image <= more.per_image < 4 * one.per_image
    assert one.fixed == more.fixed < wide.fixed


def test_each_stored_tensor_is_read_once_a_batch():
    split = Store.joined(layers())["train"]
    read = []
    gather = split.gather
    split.gather = lambda name, rows, out: (read.append(name), gather(name, rows, out))
    inputs = {"patches@4", "patches@4,5", "patches@4,5:width", "class+patches@5", "class+mean@4,5"}
    (batch,) = Feed(split, np.arange(20), inputs, CPU, torch.float32).in_order(20)
    assert sorted(read) == ["mean@5", "patches@4", "patches@5", "prefix@4", "prefix@5"]
    assert {name: tuple(t.shape) for name, t in batch.inputs.items()} == {
        "patches@4": (20, 4, DIM),
        "patches@4,5": (20, 8, DIM),
        "patches@4,5:width": (20, 4, 2 * DIM),
        "class+patches@5": (20, 5, DIM),
        "class+mean@4,5": (20, 3 * DIM),
    }


@pytest.mark.parametrize(
    ("stores", "probe", "message"),
    [
        (
            (4, 5),
            "linear",
            "names no layers and these tokens are of layers 4, 5: write linear.layers=5",
        ),
        ((4, 5), "knn", "names no layers"),
        ((4, 5), "linear?layers=3", "layer 3 isn't among these tokens, which are of layers 4, 5"),
        ((4, 5), "ep4?layers=-7", r"layer -7 is out of range \(0 to 5\)"),
        ((4, 5), "knn?layers=5,-1", "names layer 5 twice: keep one"),
        ((4, 5), "clip4?layers=4,5", r"write clip4\?join=width&layers=4,5"),
        (
            (4, 5),
            "linear?layers=4,5&input=class+pooled",
            "no pooled output: take input=class or mean",
        ),
        ((5,), "linear?layers=-1", None),
        ((5,), "ep4?join=width&layers=-1", None),
    ],
)
def test_wrong_layers_are_one_line(tmp_path, stores, probe, message):
    def fit():
        return iceprobe.fit(
            layers(numbers=stores), [probe], output=tmp_path / "run", protocol="paper", epochs=1,
            seeds=1, progress=False,
        )  # fmt: skip

    if message is None:
        assert len(fit()) == 1
        return
    with pytest.raises(IceprobeError, match=message) as error:
        fit()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_stores_that_do_not_belong_together_are_refused():
    with pytest.raises(IceprobeError, match="two stores are of layer 4"):
        Store.joined([one_layer(4, F64), one_layer(4, F64)])
    with pytest.raises(IceprobeError, match="no store was given"):
        Store.joined([])
    other = one_layer(5, F64)
    other.manifest.splits["test"].content["listing"] = "others"
    with pytest.raises(IceprobeError, match="layers 4 and 5 differ in the images"):
        Store.joined([one_layer(4, F64), other])
    unknown = layers()
    for store in unknown:
        store.depth = None
    with pytest.raises(IceprobeError, match="don't say how many their backbone has: write numbers"):
        iceprobe.knn(Store.joined(unknown), "knn?layers=-1", progress=False)
    iceprobe.knn(Store.joined(unknown), "knn?layers=5", progress=False)
    iceprobe.knn(Store.joined(unknown, depth=DEPTH), "knn?layers=-1", progress=False)


def test_patch_tokens_may_be_of_some_layers_only(tmp_path):
    stores = [one_layer(LAYERS[0], torch.float32, patches=False), one_layer(5, torch.float32)]
    asked = dict(protocol="paper", epochs=1, seeds=1, progress=False)
    with pytest.raises(IceprobeError, match="reads patch tokens and store None has only pooled"):
        iceprobe.fit(stores, ["ep4?layers=4,5"], output=tmp_path / "no", **asked)
    iceprobe.fit(stores, ["ep4?layers=5", "linear?layers=4,5"], output=tmp_path / "run", **asked)
