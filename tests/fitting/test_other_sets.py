"""A fitted run on other data sets: right values by hand, from stored tokens and the files of the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score, r2_score

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Column, Dataset
from iceprobe.results import compare, read_results
from iceprobe.results.other_sets import read_tests
from iceprobe.results.statistics import accuracy_interval
from iceprobe.store import Store
from tests.cli.conftest import BACKBONE

CLASSES = [f"class {letter}" for letter in "abcdefg"]
NUMBERS = {
    "classification": CLASSES,
    "multilabel": ["red", "round", "old"],
    "regression": ["kg", "cm"],
}
QUICK = {"replicates": 2, "epochs": 2, "progress": False}


def pixels(rng: np.random.Generator, levels: np.ndarray) -> np.ndarray:
    """Grey noise around a level an image: ``(n,)`` → ``(n, 16, 16, 3)``."""
    return rng.normal(levels[:, None, None, None], 25, (len(levels), 16, 16, 3)).clip(0, 255)


def split_of(name: str, task: str, count: int, seed: int, **more) -> ArraySplit:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    images = pixels(rng, 30.0 + 30 * labels).astype(np.uint8)
    targets = {
        "classification": labels,
        "multilabel": np.stack([labels > 3, labels % 2 == 0, labels == 1], 1).astype(np.uint8),
        "regression": np.stack([labels + rng.normal(0, 0.1, count), 100.0 - labels], 1),
    }[task]
    names = [f"{name}{i}-{seed}" for i in range(count)]
    return ArraySplit(name, images, targets, names, task=task, **more)


def fitted(folder: Path, task: str, probes: list[str], **how):
    splits = {"train": split_of("train", task, 70, 0), "test": split_of("test", task, 21, 1)}
    dataset = Dataset("own", "own", NUMBERS[task], splits)
    store = iceprobe.extract(BACKBONE, dataset, folder / "features", progress=False)
    run = folder / f"run-{task}"
    return store, iceprobe.fit(store, probes, output=run, **{**QUICK, **how})


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Store and results of a run on seven classes."""
    folder = tmp_path_factory.mktemp("classes")
    return fitted(folder, "classification", ["knn", "linear", "ep2?out_dim=6"])


def other(names: list[str], order: list[int], task: str = "classification", seed: int = 2, **more):
    """A set with ``names``, of which image i has the one at ``order[i mod …]``."""
    labels = np.resize(order, 28)
    levels = 30.0 + 30 * np.array([CLASSES.index(names[label]) for label in labels])
    images = pixels(np.random.default_rng(seed), levels).astype(np.uint8)
    split = ArraySplit("test", images, labels, [f"o{i}" for i in range(28)], **more)
    return Dataset("other", "other", names, {"test": split})


def vectors(store: Store, split: str) -> np.ndarray:
    return store[split].class_token.double().numpy()


def linear_logits(run: Path, result, store: Store) -> np.ndarray:
    """``(S, n, C)``: W (x s − μ)/√(v + ε) + b of the files of the run, in numpy."""
    found = []
    for name in result.files.probes:
        state = {k: v.astype(np.float64) for k, v in load_file(run / name).items()}
        x = vectors(store, "test")
        if "scale" in state:
            x = x * state["scale"]
        if "norm.running_mean" in state:
            x = (x - state["norm.running_mean"]) / np.sqrt(state["norm.running_var"] + 1e-6)
        found.append(x @ state["classifier.weight"].T + state["classifier.bias"])
    return np.stack(found)


def of(results, probe: str, *, masked: bool = False):
    return next(one for one in results if one.probe == probe and one.masked == masked)


def test_on_its_own_test_split_a_run_predicts_what_it_did(classes) -> None:
    store, results = classes
    again = iceprobe.test(results, store, name="same", progress=False)
    assert [one.probe for one in again] == [one.probe for one in results]
    for before, now in zip(results, again, strict=True):
        ours, theirs = before.predictions(), now.predictions()
        np.testing.assert_array_equal(ours.predicted, theirs.predicted)
        a, b = (p.logits().values.astype(float) for p in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)
        assert now.metrics == before.metrics
        assert (now.images, now.seeds, now.selected) == (
            before.images,
            before.seeds,
            before.selected,
        )
        assert now.test_of.created == before.created
        assert not now.masked
    # Results as any others: on disk, and paired with the run they are of.
    run = results[0].run
    assert [r.metrics for r in read_results(run / "tests" / "same")] == [r.metrics for r in again]
    assert all(one.difference.mean == 0 for one in compare(again, results))
    assert [one.test_of.name for one in read_tests(run)][: len(again)] == ["same"] * len(again)


def test_classes_in_another_order_and_only_some_of_them(classes) -> None:
    _, results = classes
    names = ["class f", "class b", "class d"]
    found = iceprobe.test(results, other(names, [0, 1, 2, 2, 0]), name="some", progress=False)
    run, store = results[0].run, found[0].open_store
    assert [one.masked for one in found] == [False] * 3 + [True] * 3
    assert {one.split for one in found} == {"test"}
    assert {one.dataset for one in found} == {"other"}
    truth = np.array([CLASSES.index(names[label]) for label in store["test"].labels])
    logits = linear_logits(run, of(results, "linear"), store)
    full = of(found, "linear")
    np.testing.assert_array_equal(full.predictions().labels, truth)
    np.testing.assert_array_equal(full.predictions().predicted, logits.argmax(-1))
    np.testing.assert_allclose(full.top1.values, (logits.argmax(-1) == truth).mean(1))
    best = np.argsort(-logits, -1)[..., :5]
    np.testing.assert_allclose(full.top5.values, (best == truth[:, None]).any(-1).mean(1))
    assert (full.classes, full.class_names, full.test_images) == (7, CLASSES, 28)
    # Masked: class b, d, f, in the order of the run.
    kept = [1, 3, 5]
    masked = of(found, "linear", masked=True)
    assert (masked.classes, masked.class_names) == (3, [CLASSES[k] for k in kept])
    within = np.array([kept.index(label) for label in truth])
    np.testing.assert_array_equal(masked.predictions().labels, within)
    np.testing.assert_array_equal(masked.predictions().predicted, logits[..., kept].argmax(-1))
    np.testing.assert_allclose(masked.top1.values, (logits[..., kept].argmax(-1) == within).mean(1))
    assert masked.top1.mean >= full.top1.mean
    assert "top5" not in masked.metrics
    assert any("also those that other lacks" in line for line in full.assumed)
    assert any("logits of the 3 classes" in line for line in masked.assumed)
    assert (run / "tests" / "some" / "masked" / "results.json").is_file()


def test_neighbours_of_the_run_vote_with_its_own_k_and_temperature(classes) -> None:
    store, results = classes
    names = ["class f", "class b", "class d"]
    found = iceprobe.test(results, other(names, [0, 1, 2]), name="votes", progress=False)
    knn, theirs = of(results, "knn"), found[0].open_store
    bank, queries = vectors(store, "train"), vectors(theirs, "test")
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    chosen = [str(knn.selected[key]).split(", ") for key in ("k", "temperature")]
    for r in range(2):
        k, t = (float(each[r] if len(each) > 1 else each[0]) for each in chosen)
        similarity = queries @ bank.T
        nearest = np.argsort(-similarity, 1, kind="stable")[:, : int(k)]
        votes = np.zeros((len(queries), 7))
        for i, rows in enumerate(nearest):
            for row in rows:
                votes[i, store["train"].labels[row]] += np.exp(similarity[i, row] / t)
        np.testing.assert_array_equal(of(found, "knn").predictions().predicted[r], votes.argmax(1))
        kept = votes[:, [1, 3, 5]]
        expected = np.where(kept.max(1) > 0, kept.argmax(1), -1)
        found_masked = of(found, "knn", masked=True).predictions().predicted[r]
        np.testing.assert_array_equal(found_masked, expected)


def test_several_classes_of_the_run_stand_for_one(classes) -> None:
    """As of ObjectNet: the logit of a group is the maximum of its classes."""
    _, results = classes
    maps = {"low": ["class a", "class c"], "high": ["class g"]}
    levels = np.array([0, 2, 6, 0])
    images = pixels(np.random.default_rng(5), 30.0 + 30 * np.resize(levels, 28)).astype(np.uint8)
    labels = np.resize([1, 1, 0, 1], 28)
    split = ArraySplit("test", images, labels, [f"m{i}" for i in range(28)])
    dataset = Dataset("mapped", "mapped", ["high", "low"], {"test": split}, maps=maps)
    found = iceprobe.test(results, dataset, name="mapped", progress=False)
    logits = linear_logits(results[0].run, of(results, "linear"), found[0].open_store)
    groups = np.stack([logits[..., 6], logits[..., [0, 2]].max(-1)], -1)
    masked = of(found, "linear", masked=True)
    assert masked.class_names == ["high", "low"]
    np.testing.assert_array_equal(masked.predictions().predicted, groups.argmax(-1))
    full = of(found, "linear")
    assert full.class_names == ["high", "low", "class b", "class d", "class e", "class f"]
    right = np.where(labels == 1, np.isin(logits.argmax(-1), [0, 2]), logits.argmax(-1) == 6)
    np.testing.assert_allclose(full.top1.values, right.mean(1))


def test_names_that_the_run_does_not_predict_are_refused(classes) -> None:
    _, results = classes
    names = ["class f", "Class_B"]
    split = ArraySplit("test", np.zeros((2, 16, 16, 3), np.uint8), [0, 1], ["x", "y"])
    dataset = Dataset("odd", "odd", names, {"test": split})
    with pytest.raises(
        IceprobeError, match=r"class of odd: 'Class_B' is none of the 7 .*'class b'"
    ):
        iceprobe.test(results, dataset, progress=False)
    with pytest.raises(IceprobeError, match=r"unknown split of other 'val'"):
        iceprobe.test(results, other(["class a"], [0]), split="val", progress=False)
    # A name without an image is no matter.
    only = Dataset("odd", "odd", names, {"test": ArraySplit("test", split.images[:1], [0], ["x"])})
    (run,) = {one.run for one in results}
    assert (
        iceprobe.test(run, only, name="one", backbone=BACKBONE, progress=False)[0].test_images == 1
    )


def test_what_is_no_other_set_of_the_run_is_refused(classes, tmp_path) -> None:
    store, results = classes
    numbers = Dataset("n", "n", ["kg", "cm"], {"test": split_of("test", "regression", 7, 4)})
    with pytest.raises(IceprobeError, match="n has targets of regression, and the run predicts"):
        iceprobe.test(results, numbers, progress=False)
    foreign = iceprobe.extract(
        BACKBONE.replace("std=0.5", "std=0.25"),
        other(["class a"], [0]), tmp_path, progress=False,
    )  # fmt: skip
    with pytest.raises(IceprobeError, match=r"isn't the backbone of the run"):
        iceprobe.test(results, foreign, progress=False)
    with pytest.raises(IceprobeError, match="of a test: take letters"):
        iceprobe.test(results, store, name="../up", progress=False)
    with pytest.raises(IceprobeError, match="give a run folder"):
        iceprobe.test([], store, progress=False)


def test_a_test_that_exists_is_read_or_refused_never_replaced(classes) -> None:
    store, results = classes
    one = other(["class a", "class b"], [0, 1])
    first = iceprobe.test(results, one, name="kept", progress=False)
    folder = results[0].run / "tests" / "kept"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    again = iceprobe.test(results, one, name="kept", progress=False)
    assert [r.metrics for r in again] == [r.metrics for r in first]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
    with pytest.raises(IceprobeError, match=r"kept holds a test on other images \(other\): give"):
        iceprobe.test(results, other(["class a"], [0], seed=9), name="kept", progress=False)
    # Killed before its results: it is read again, whole.
    (folder / "results.json").unlink()
    last = iceprobe.test(results, one, name="kept", progress=False)
    assert [r.metrics for r in last] == [r.metrics for r in first]
    with pytest.raises(
        IceprobeError, match=r"is a test of a run: name the run itself, .*run-class"
    ):
        iceprobe.test(folder, store, progress=False)


def test_tags_go_by_name_and_those_that_the_set_lacks_count_nowhere(tmp_path) -> None:
    _, results = fitted(tmp_path, "multilabel", ["linear", "knn"], replicates=1)
    whole = split_of("test", "multilabel", 28, 3)
    two = ArraySplit("test", whole.images, whole.labels[:, [2, 0]], whole.names, task="multilabel")
    dataset = Dataset("tags", "tags", ["old", "red"], {"test": two})
    found = iceprobe.test(results, dataset, progress=False)
    assert [one.masked for one in found] == [False, False]
    linear = of(found, "linear")
    predictions = linear.predictions()
    np.testing.assert_array_equal(predictions.labels[:, [2, 0]], two.labels)
    assert (predictions.labels[:, 1] == 255).all()
    logits = linear_logits(results[0].run, of(results, "linear"), found[0].open_store)[0]
    np.testing.assert_allclose(predictions.logits().values[0], logits, rtol=1e-3, atol=1e-3)
    values = predictions.logits().values[0]
    each = [average_precision_score(whole.labels[:, k], values[:, k]) for k in (0, 2)]
    assert linear.metrics["map"].mean == pytest.approx(np.mean(each), abs=1e-9)
    assert any("lacks the tags 'round'" in line for line in linear.assumed)
    # Thresholds are those that the run found on its own held-out examples.
    kept = of(results, "linear").predictions().tuned["thresholds"]
    np.testing.assert_array_equal(predictions.tuned["thresholds"], kept)
    assert "f1_macro_best" in linear.metrics


def test_numbers_go_by_name(tmp_path) -> None:
    _, results = fitted(tmp_path, "regression", ["linear", "knn"], replicates=1)
    whole = split_of("test", "regression", 28, 3)
    turned = ArraySplit("test", whole.images, whole.labels[:, ::-1], whole.names, task="regression")
    dataset = Dataset("turned", "turned", ["cm", "kg"], {"test": turned})
    linear = of(iceprobe.test(results, dataset, progress=False), "linear")
    values = linear.predictions().predicted[0]
    np.testing.assert_array_equal(linear.predictions().labels, whole.labels)
    assert linear.metrics["r2"].mean == pytest.approx(r2_score(whole.labels, values), abs=1e-9)
    one = ArraySplit("test", whole.images, whole.labels[:, :1], whole.names, task="regression")
    kg = iceprobe.test(results, Dataset("kg", "kg", ["kg"], {"test": one}), progress=False)
    assert of(kg, "linear").metrics["r2"].mean == pytest.approx(
        r2_score(whole.labels[:, 0], values[:, 0]), abs=1e-9
    )


@pytest.mark.parametrize("groups", [None, "patient"])
def test_neighbours_of_few_labels_are_those_of_each_draw(tmp_path, groups) -> None:
    store, results = grouped_run(tmp_path, ["knn", "linear"], shots=2, groups=groups)
    # In another process, from its files; and as fit returned it.
    for run in (results[0].run, results):
        name = "same" if run is results else "read"
        again = iceprobe.test(run, store, name=name, progress=False)
        for before, now in zip(results, again, strict=True):
            ours, theirs = before.predictions(), now.predictions()
            np.testing.assert_array_equal(ours.predicted, theirs.predicted)
            assert (now.group, now.metrics) == (before.group, before.metrics)
            assert now.group == groups


def patients(codes, values=("p0", "p1", "p2", "p3", "p4", "p5")):
    return {
        "patient": Column(np.asarray(codes), values),
        "site": Column(np.asarray(codes) % 2, ["x", "y"]),
    }


def grouped_run(folder: Path, probes: list[str], **how):
    """Store and results of a run whose examples have a patient and a site, both no groups by themselves."""
    sizes = {"train": (84, 0, np.arange(84) % 6), "test": (42, 1, np.arange(42) // 14 + 3)}
    splits = {
        name: split_of(name, "classification", count, seed, columns=patients(codes))
        for name, (count, seed, codes) in sizes.items()
    }
    dataset = Dataset("own", "own", CLASSES, splits, slices=["patient", "site"])
    store = iceprobe.extract(BACKBONE, dataset, folder / "features", progress=False)
    return store, iceprobe.fit(store, probes, output=folder / "run", **{**QUICK, **how})


def test_another_set_is_in_the_groups_that_the_call_named(tmp_path) -> None:
    _, results = grouped_run(tmp_path, ["linear"], groups="patient", seeds=1, replicates=None)
    codes = np.arange(28) // 2
    values = [f"q{i}" for i in range(14)]
    split = split_of("test", "classification", 28, 3, columns=patients(codes, values))
    own = Dataset("mine", "mine", CLASSES, {"test": split}, slices=["patient"])
    (found,) = iceprobe.test(results, own, name="own", progress=False)
    predictions = found.predictions()
    np.testing.assert_array_equal(predictions.groups, codes)
    assert found.group == "patient"
    right = (predictions.predicted[0] == predictions.labels).astype(float)
    expected = accuracy_interval(right[None], None, codes)
    assert found.top1.interval == pytest.approx(expected)
    assert found.top1.interval != pytest.approx(accuracy_interval(right[None]))
    # One that names groups itself keeps them; one without the column has none. Both are told.
    other = {"patient": split.columns["patient"], "site": split.columns["site"]}
    split.columns = other
    (site,) = iceprobe.test(
        results,
        Dataset("s", "s", CLASSES, {"test": split}, group="site"),
        name="site",
        progress=False,
    )
    np.testing.assert_array_equal(site.predictions().groups, codes % 2)
    said = "the run's groups are of column 'patient', and "
    assert f"{said}those of s are of column 'site'" in site.assumed
    bare = Dataset("b", "b", CLASSES, {"test": split_of("test", "classification", 28, 3)})
    (none,) = iceprobe.test(results, bare, name="none", progress=False)
    assert none.predictions().groups is None
    assert f"{said}b is read without it: each of its examples counts as independent" in none.assumed
    assert none.top1.interval == pytest.approx(accuracy_interval(right[None]))
    assert not any(said in line for line in found.assumed)


def test_results_without_a_name_of_groups_take_the_one_that_the_run_was_asked_for(tmp_path) -> None:
    store, results = grouped_run(tmp_path, ["knn"], shots=2, groups="patient")
    path = results[0].run / "results.json"
    document = json.loads(path.read_text())
    del document["results"][0]["group"], document["sha256"]
    path.write_text(json.dumps(document))
    (again,) = iceprobe.test(results[0].run, store, progress=False)
    before = results[0].predictions()
    np.testing.assert_array_equal(before.predicted, again.predictions().predicted)
    assert again.metrics == results[0].metrics


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_numbers_in_another_unit_are_refused_and_unknown_units_are_told(tmp_path, probe) -> None:
    splits = {n: split_of(n, "regression", 28, i) for i, n in enumerate(("train", "test"))}
    run = Dataset("own", "own", ["kg", "cm"], splits, units=["kg", ""])
    store = iceprobe.extract(BACKBONE, run, tmp_path / "features", progress=False)
    results = iceprobe.fit(store, [probe], output=tmp_path / "run", seeds=1, progress=False)

    def other(units, name="other"):
        split = split_of("test", "regression", 28, 3)
        turned = ArraySplit(
            "test", split.images, split.labels[:, ::-1], split.names, task="regression"
        )
        return Dataset(name, name, ["cm", "kg"], {"test": turned}, units=units)

    line = r"^other has 'kg' in g, and the run predicts it in kg: give its numbers in kg, with unit=kg$"
    with pytest.raises(IceprobeError, match=line):
        iceprobe.test(results, other(["cm", "g"]), progress=False)
    in_grams = iceprobe.extract(BACKBONE, other(["cm", "g"]), tmp_path / "o", progress=False)
    with pytest.raises(IceprobeError, match=line):
        iceprobe.test(tmp_path / "run", in_grams, progress=False)
    said = "the unit of 'cm' isn't known of the run: it is taken to be cm"
    (read,) = iceprobe.test(results, other(["cm", "kg"]), name="known", progress=False)
    assert [line for line in read.assumed if "unit" in line] == [said]
    predictions = read.predictions()
    error = np.abs(predictions.predicted[0] - predictions.labels).mean()
    assert read.metrics["mae"].mean == pytest.approx(error)
    (read,) = iceprobe.test(results, other([]), name="unknown", progress=False)
    assert [line for line in read.assumed if "unit" in line] == [
        "the unit of 'cm' isn't known of other: it is taken to be that of the run",
        "the unit of 'kg' isn't known of other: it is taken to be kg",
    ]


def test_training_images_and_groups_that_are_in_both_are_told(tmp_path) -> None:
    def column(codes):
        return {"patient": Column(np.asarray(codes), ["p0", "p1", "p2", "p3"])}

    train = split_of("train", "classification", 140, 0, columns=column(np.arange(140) // 14 % 2))
    test = split_of("test", "classification", 14, 1, columns=column([2] * 14))
    dataset = Dataset("own", "own", CLASSES, {"train": train, "test": test}, group="patient")
    store = iceprobe.extract(BACKBONE, dataset, tmp_path / "f", progress=False)
    results = iceprobe.fit(
        store,
        ["linear"],
        output=tmp_path / "run",
        seeds=1,
        protocol="paper",
        epochs=2,
        progress=False,
    )
    images = np.concatenate([train.images[:2], test.images[:5]])
    labels = np.concatenate([train.labels[:2], test.labels[:5]])
    names = [f"n{i}" for i in range(7)]
    mixed = ArraySplit(
        "test", images, labels, names,
        columns={"patient": Column(np.array([0, 0, 0, 1, 1, 1, -1]), ["p1", "p9"])},
    )  # fmt: skip
    found = iceprobe.test(
        results, Dataset("mix", "mix", CLASSES, {"test": mixed}, group="patient"), progress=False
    )
    assert found[0].identical_images == 2
    said = " ".join(found[0].assumed)
    assert "2 of 7 test images are identical to training images" in said
    assert "1 group (patient 'p1') is in the run's train and in test of mix: 3 of 7" in said
    assert len(found[0].predictions().groups) == 7


def test_without_its_store_a_run_of_trained_probes_is_read_and_neighbours_are_not(tmp_path) -> None:
    store, results = fitted(tmp_path, "classification", ["linear"], replicates=1)
    run = results[0].run
    dataset = other(["class a", "class b"], [0, 1])
    there = iceprobe.test(run, dataset, name="there", progress=False)
    _, with_knn = fitted(tmp_path / "knn", "classification", ["knn"])
    shutil.rmtree(store.path)
    shutil.rmtree(tmp_path / "knn" / "features")
    gone = iceprobe.test(run, dataset, name="gone", progress=False)
    assert gone[0].metrics == there[0].metrics
    assert any("the run's feature store isn't there" in line for line in gone[0].assumed)
    with pytest.raises(IceprobeError, match="knn votes from the training tokens of the run, which"):
        iceprobe.test(with_knn[0].run, dataset, progress=False)


def test_what_stays_in_memory_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    splits = {n: split_of(n, "classification", 28, i) for i, n in enumerate(("train", "test"))}
    dataset = Dataset("own", "own", CLASSES, splits)
    results = iceprobe.probe(BACKBONE, dataset, ["knn", "linear"], progress=False)
    found = iceprobe.test(results, other(["class a", "class b"], [0, 1]), progress=False)
    assert len(found) == 4
    assert list(tmp_path.iterdir()) == []


def test_out_of_fold_probes_are_none_to_read(tmp_path) -> None:
    store, results = fitted(
        tmp_path, "classification", ["linear"], replicates=1, protocol="folds", folds=2
    )
    with pytest.raises(
        IceprobeError, match="is of protocol folds, which keeps no probe fitted on all"
    ):
        iceprobe.test(results, store, progress=False)


def test_nothing_is_fitted_on_a_test_set_alone(tmp_path) -> None:
    store = iceprobe.extract(BACKBONE, other(["class a"], [0]), tmp_path, progress=False)
    for call in (lambda: iceprobe.fit(store, ["linear"]), lambda: iceprobe.knn(store)):
        with pytest.raises(IceprobeError, match=r"has no split 'train'.*iceprobe test RUN --data"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "few", "memory"])
def test_probes_of_several_layers_predict_what_they_did(tmp_path, where) -> None:
    splits = {
        "train": split_of("train", "classification", 70, 0),
        "test": split_of("test", "classification", 21, 1),
    }
    dataset = Dataset("own", "own", CLASSES, splits)
    whole = iceprobe.load_backbone("bundled:mae-tiny?layer=-2,-1")
    if where == "memory":
        stores = [iceprobe.store.extract_in_memory(one, dataset) for one in whole.per_layer()]
    else:
        stores = iceprobe.extract_layers(whole, dataset, tmp_path / "features", progress=False)
    probes = ["knn?layers=4,5", "logreg?C=1&input=class+mean&layers=4,5", "ep2?layers=5,4"]
    draw = {"shots": 4} if where == "few" else {}
    results = iceprobe.fit(stores, probes, output=tmp_path / "run", **QUICK, **draw)
    other = Dataset("other", "other", CLASSES, {"test": splits["test"]})
    given = {"backbone": "bundled:mae-tiny"} if where == "few" else {}
    run = results if where == "memory" else tmp_path / "run"
    if where == "memory":
        given["features"] = tmp_path / "other"
    read = iceprobe.test(run, other, progress=False, **given)
    assert [one.label for one in read] == [one.label for one in results]
    for one, was in zip(read, results, strict=True):
        assert (one.predictions().predicted == was.predictions().predicted).all()
        assert len(one.store.layers) == 2
    again = read_tests(tmp_path / "run")
    assert [one.metrics for one in again] == [one.metrics for one in read]
