"""k-NN on a store: what is chosen on what, and what the result says."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split
from iceprobe.neighbours import settings
from iceprobe.protocols.heldout import cross_validation
from iceprobe.tasks.stratified import heldout_split
from iceprobe.tokens import Tokens


class Levels(nn.Module):
    """Tokens of an 8 x 8 image: its 2 x 2 patches of 4 x 4 pixels as they are, and their maximum."""

    def tokens(self, images: torch.Tensor) -> Tokens:
        patches = nn.functional.unfold(images, 4, stride=4).transpose(1, 2)
        return Tokens(patches, patches.amax(1, keepdim=True), (2, 2), True)


class Noise(Split):
    """Images of seeded noise around a pattern of their class."""

    def __init__(self, name: str, per_class: int, classes: int, seed: int):
        labels = np.repeat(np.arange(classes), per_class)
        super().__init__(name, labels, [f"{name}/{i}" for i in range(len(labels))])
        patterns = np.random.default_rng(7).normal(128, 25, (classes, 8, 8, 1))
        noise = np.random.default_rng(seed).normal(0, 35, (len(labels), 8, 8, 1))
        pixels = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
        self.pixels = np.repeat(pixels, 3, axis=3)

    def image(self, index: int):
        from PIL import Image

        return Image.fromarray(self.pixels[index])

    def fingerprint(self) -> str:
        return f"{self.name} {len(self)}"


def make_store(classes: int = 7, train: int = 20, test: int = 9):
    backbone = iceprobe.load_backbone(
        Levels(), image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0
    )
    splits = {"train": Noise("train", train, classes, 1), "test": Noise("test", test, classes, 2)}
    names = [f"class {c}" for c in range(classes)]
    dataset = Dataset("test:noise", "noise", names, splits)
    from iceprobe.store import extract_in_memory

    return extract_in_memory(backbone, dataset, tokens="float32", patches=False)


@pytest.fixture(scope="module")
def store():
    return make_store()


def accuracy_of_scikit_learn(
    bank, bank_labels, queries, labels, setting
) -> tuple[float, np.ndarray]:
    k, temperature = setting
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(bank, bank_labels)
    predicted = reference.predict(queries)
    return float((predicted == labels).mean()), predicted


def test_heldout_chooses_on_five_folds_where_images_are_few(store):
    bank, labels = store["train"].class_token.double().numpy(), store["train"].labels
    folds = cross_validation(labels, 3, 5)
    tried = {}
    for setting in settings(min(len(fold.train) for fold in folds)):
        right = 0
        for fold in folds:
            learn, held = fold.train, fold.held_out
            _, predicted = accuracy_of_scikit_learn(
                bank[learn], labels[learn], bank[held], labels[held], setting
            )
            right += int((predicted == labels[held]).sum())
        tried[setting] = right / len(labels)  # each is held out once
    best = max(tried, key=lambda setting: tried[setting])
    result = iceprobe.knn(store, seed=3)
    assert result.selected == {"k": best[0], "temperature": best[1]}
    assert result.best_minus_median == pytest.approx(tried[best] - np.median(list(tried.values())))
    assert result.selected_on == "5-fold cross-validation of train"
    assert result.selected_score.mean == pytest.approx(tried[best])
    assert (result.selected_score.images, result.warnings) == (len(labels), [])


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("source", ["class", "mean"])
def test_heldout_chooses_on_the_held_out_tenth_and_refits_on_all(store, source):
    def features(split):
        rows = store[split].class_token if source == "class" else store[split].mean
        return rows.double().numpy()

    labels = store["train"].labels
    fit_rows, held = heldout_split(labels, 3)
    bank = features("train")
    tried = {
        setting: accuracy_of_scikit_learn(
            bank[fit_rows], labels[fit_rows], bank[held], labels[held], setting
        )[0]
        for setting in settings(len(fit_rows))
    }
    best = max(tried, key=lambda setting: tried[setting])
    expected, predicted = accuracy_of_scikit_learn(
        bank, labels, features("test"), store["test"].labels, best
    )

    result = iceprobe.knn(store, f"knn?input={source}", seed=3)

    assert result.selected == {"k": best[0], "temperature": best[1]}
    assert result.settings_tried == len(tried)
    assert result.best_minus_median == pytest.approx(tried[best] - np.median(list(tried.values())))
    assert "held-out" in result.selected_on
    assert result.top1.mean == pytest.approx(expected)
    np.testing.assert_array_equal(result.predictions().predicted[0], predicted)
    assert 0.3 < expected < 0.95  # neither trivial nor chance, so the assertions above bite


def test_paper_chooses_on_the_reported_split_and_says_so(store):
    bank, queries = store["train"].class_token.double(), store["test"].class_token.double()
    tried = [
        accuracy_of_scikit_learn(
            bank.numpy(), store["train"].labels, queries.numpy(), store["test"].labels, setting
        )[0]
        for setting in settings(len(bank))
    ]
    result = iceprobe.knn(store, protocol="paper")
    assert result.top1.mean == pytest.approx(max(tried))
    assert "reported split" in result.selected_on
    assert result.selected_on_reported
    assert result.selected_score is None


def test_without_input_the_class_token_is_read(store):
    plain, named = iceprobe.knn(store), iceprobe.knn(store, "knn?input=class")
    assert (plain.probe, plain.top1) == ("knn", named.top1)


def test_result_counts_nothing_trained_and_every_similarity(store):
    result = iceprobe.knn(store)
    assert result.parameters.total == 0
    assert result.flops.per_image == 2 * 140 * 48
    assert (result.method, result.variance, result.top1.sd, result.seeds) == (
        "knn",
        "none",
        None,
        [],
    )
    assert result.top5 is not None
    assert result.top5.mean >= result.top1.mean


def test_fewer_than_five_classes_and_a_handful_of_images():
    result = iceprobe.knn(make_store(classes=2, train=3, test=1))
    assert result.top5 is None
    assert result.test_images == 2
    assert result.selected["k"] <= 4  # of six, one a class was held out


def test_one_image_a_class_leaves_none_to_hold_out():
    store = make_store(classes=3, train=1, test=2)
    result = iceprobe.knn(store)
    assert (result.selected["k"], result.settings_tried) == (3, 1)  # all there are
    assert result.selected_on.startswith("nothing")
    assert iceprobe.knn(store, protocol="paper").settings_tried == 3


def test_progress_covers_selection_and_test(store):
    seen = []
    iceprobe.knn(store, progress=lambda *at: seen.append(at))
    assert seen[-1] == ("knn", 140 + 63, 140 + 63)  # each image is held out once


def test_wrong_option_is_answered_with_the_right_ones(store):
    with pytest.raises(iceprobe.IceprobeError, match=r"inptu.*input"):
        iceprobe.knn(store, "knn?inptu=mean")


@pytest.mark.parametrize(("split", "label"), [("train", -1), ("test", -1), ("test", 7)])
def test_labels_of_an_older_store_that_name_no_class_are_refused(split, label, tmp_path):
    store, folder = make_store(), tmp_path / "run"
    store[split].labels[4] = label
    for ask in (
        lambda: iceprobe.knn(store),
        lambda: iceprobe.fit(store, ["linear"], output=folder),
    ):
        with pytest.raises(IceprobeError, match=f"label {label} of row 4 in split '{split}'"):
            ask()
    assert not folder.exists() or not [f for f in folder.iterdir() if f.name != ".lock"]
