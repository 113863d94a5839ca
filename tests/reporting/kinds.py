"""A page of every kind of report there is, small."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import iceprobe
from iceprobe.analysis.files import write_analyses
from iceprobe.reporting.page import render
from iceprobe.results import FittedResult, Flops, Parameters, Predictions, write_curves
from iceprobe.results.building import scores_of
from iceprobe.results.schema import Score
from iceprobe.store import extract
from tests.analysis.needles import bags, fitted
from tests.dense.depths import deep
from tests.dense.masks import planted
from tests.reporting import strips
from tests.reporting.conftest import FakeStore, _curves, make_result, make_run
from tests.reporting.test_analysis_view import LABELS, several
from tests.reporting.test_class_sections import two_probes
from tests.reporting.test_layout import campaign
from tests.reporting.test_strips import shades
from tests.reporting.test_tasks import made
from tests.store.conftest import make_backbone

_QUICK = dict(seeds=2, epochs=4, batch_size=8, learning_rates=[1e-2, 1e-1], progress=False)


def _analysed(folder: Path) -> str:
    results = make_run(folder, FakeStore(), chosen=LABELS)
    write_analyses(folder, several())
    return render(results, images=4)


def _sweeps(folder: Path) -> str:
    """Of layers, and of draws of training images."""
    results = []
    for number, layer in enumerate((2, 5, 11)):
        for label, accuracy in (("linear?input=mean", 0.5), ("ep4", 0.6)):
            one, predictions = make_result(label, accuracy + 0.05 * number)
            backbone = f"timm:a?layer={layer}"
            results.append(one.replaced(predictions=predictions, backbone=backbone, layer=layer))
    return render(results, images=0)


def _draws(folder: Path) -> str:
    results = []
    for shots in (1, 5, 10):
        for seed in (0, 1):
            one, predictions = make_result("linear", 0.3 + shots / 40, seed=seed)
            fields = {"shots": shots, "images": "same", "train_images": 7 * shots}
            results.append(one.replaced(predictions=predictions, **fields))
    return render(results, images=0)


def _folds(folder: Path) -> str:
    folded = dict(folds=Score.of([0.5, 0.6, 0.7]), protocol="folds", split="folds")
    return render([one.replaced(**folded) for one in made("multilabel")], images=0)


def _bags(folder: Path) -> str:
    results = fitted(bags(40, seed=0), bags(24, seed=1), ["ep2", "abmilp", "max"])
    iceprobe.analyze(results, draws=5)
    return render(results, images=4)


def _clips(folder: Path) -> str:
    store = iceprobe.extract("bundled:mae-tiny?frames=3", shades(), folder / "features")
    return render(strips.fitted(store, folder / "run"), images=4)


def _recordings(folder: Path) -> str:
    from tests.reporting.test_spectrograms import Pieces, tones  # skips without soundfile

    store = iceprobe.extract(Pieces(), tones(folder / "tones"), folder / "features")
    results = strips.fitted(store, folder / "run")
    iceprobe.analyze(results, draws=5, output=folder / "run")
    return render(results, images=4)


def _segmented(data: Callable[[], object]) -> Callable[[Path], str]:
    def page(folder: Path) -> str:
        store = extract(make_backbone(), data(), folder / "features", batch_size=16)
        store = iceprobe.Store.open(store.path, dataset=data())
        results = iceprobe.segment(store, ["linear", "ep2"], output=folder / "run", **_QUICK)
        return iceprobe.report(results, folder / "r.html").read_text()

    return page


KINDS: dict[str, Callable[[Path], str]] = {
    "classes": lambda folder: render(make_run(folder, FakeStore()), images=4),
    "calibrated": lambda folder: render(two_probes(), images=0),
    "analysed": _analysed,
    "backbones": lambda folder: render(campaign(folder), images=0),
    "layers": _sweeps,
    "draws": _draws,
    "tags": lambda folder: render(made("multilabel"), images=0),
    "numbers": lambda folder: render(made("regression"), images=0),
    "folds": _folds,
    "bags": _bags,
    "clips": _clips,
    "recordings": _recordings,
    "segmentation": _segmented(planted),
    "depth": _segmented(deep),
}


def large(folder: Path) -> list[FittedResult]:
    """60 probes on 1,000 classes with long names, their curves included."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 2000)
    names = [f"a class whose name is rather long, number {k}" for k in range(1000)]
    probes = ["knn", "linear?input=mean", "abmilp", *(f"ep{k}" for k in range(4, 33))]
    probes += [f"ep{k}?out_dim={dim}" for k in (8, 16) for dim in range(16, 44, 2)]
    results, curves = [], []
    made: list[tuple] = []  # of ten: intervals over so many classes take their time
    for number, label in enumerate(probes):
        skill, knn = 0.5 + 0.005 * number, label == "knn"
        one, _ = make_result(label if knn else "ep4", 0.5)
        if number <= 10:
            seen = rng.random((1 if knn else 3, len(labels))) < 0.5 + 0.03 * number
            predicted = np.where(seen, labels, rng.integers(0, 1000, seen.shape))
            predictions = Predictions(labels, predicted.astype(np.int32))
            made.append((predictions, scores_of(predictions, one.task)))
        predictions, metrics = made[number if number <= 10 else 1 + number % 10]
        size = 1000 * number
        fields = {
            "probe": label, "classes": 1000, "class_names": names, "run": folder,
            "metrics": metrics, "flops": Flops(per_image=50_000 + 9 * size),
            "parameters": Parameters(pooling=size, classifier=0, total=size),
        }  # fmt: skip
        results.append(one.replaced(predictions=predictions, **fields))
        curves += _curves(label, skill, "heldout")
    write_curves(folder, curves)
    return results
