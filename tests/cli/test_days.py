"""A fit of more than a day is asked for twice: a zero too many in ``--epochs`` asks for years."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import iceprobe as api
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import in_days
from tests.cli.conftest import Ended


def _begins(*_: object, **__: object) -> None:
    raise IceprobeError("the work begins")


def test_a_fit_of_years_is_refused_with_its_estimate(
    iceprobe: Callable[..., Ended],
    quick: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = api.extract(quick[1], quick[3])
    long = ["--probe", "ep2?out_dim=6", "--epochs", "1000000000", "--seeds", "1", "--output", "r"]
    monkeypatch.setattr("iceprobe.fitting.api.repetition", _begins)
    refused = iceprobe("fit", store.path, *long)
    assert refused.code == 2
    assert "error: the fit of 1,000,000,000 epochs would take about " in refused.err
    assert re.search(r" (days|years): give fewer --epochs, or --long to begin it", refused.err)
    assert not Path("r").exists()
    assert "the work begins" in iceprobe("fit", store.path, *long, "--long").err
    # A usual fit isn't held up: nothing is measured.
    monkeypatch.setattr("iceprobe.cost.fit.plan_fit", None)
    short = ["--probe", "linear", "--epochs", "3", "--output", "s"]
    assert "the work begins" in iceprobe("fit", store.path, *short).err


def test_a_training_of_years_is_refused_by_one_step_of_it(
    iceprobe: Callable[..., Ended], quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is real; that it is one of a billion passes makes it years."""
    monkeypatch.setattr("iceprobe.adaptation.protocol.AdaptationRun.run", _begins)
    asked = ["--adapt", "full?layer_decay=1", "--probe", "linear", "--seeds", "1", "--output", "r"]
    refused = iceprobe("adapt", *quick[:4], *asked, "--epochs", "1000000000")
    assert refused.code == 2
    assert "error: the training of 1,000,000,000 epochs would take about " in refused.err
    assert re.search(r" (days|years): give fewer --epochs, or --long to begin it", refused.err)
    assert not Path("r").exists()
    for words in (["--epochs", "1000000000", "--long"], ["--epochs", "2"]):
        assert "the work begins" in iceprobe("adapt", *quick[:4], *asked, *words).err


def test_a_segmentation_of_years_is_refused_by_its_first_steps(
    iceprobe: Callable[..., Ended],
) -> None:
    asked = ["--backbone", "bundled:mae-tiny", "--data", "bundled:fashion-clutter", "--limit", "60"]
    asked += ["--probe", "linear", "--seeds", "1", "--learning-rates", "1e-1", "--output", "s"]
    refused = iceprobe("segment", *asked, "--epochs", "1000000000")
    assert refused.code == 2
    assert "error: the training of 1,000,000,000 epochs would take about " in refused.err
    assert not Path("s").exists()


def test_python_warns(
    quick: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = api.extract(quick[1], quick[3], tmp_path / "features")

    def stops(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise IceprobeError("enough")

    asked = {"seeds": 1, "progress": stops}
    with caplog.at_level(logging.WARNING, "iceprobe"):
        with pytest.raises(IceprobeError, match="enough"):
            api.fit(store, ["ep2?out_dim=6"], epochs=10**9, output=tmp_path / "r", **asked)
        assert caplog.text.count("the fit of 1,000,000,000 epochs will take about") == 1
        caplog.clear()
        api.fit(store, ["ep2?out_dim=6"], epochs=2, output=tmp_path / "s", seeds=1)
        assert "will take about" not in caplog.text


def test_days_are_in_words() -> None:
    assert in_days(3.5 * 86_400) == "3.5 days"
    assert in_days(1027 * 365.25 * 86_400) == "1,027 years"
