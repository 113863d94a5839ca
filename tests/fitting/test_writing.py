"""Stopped before any of the renames that make a run folder, a fit goes on and ends the same."""

import os

import iceprobe
from tests.fitting.test_api import Killed, content, planted_dataset
from tests.store.conftest import make_backbone

ASK = dict(seeds=1, epochs=1, batch_size=64, learning_rates=[1e-2])


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_stopped_between_any_two_files(tmp_path, monkeypatch):
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path / "f", batch_size=16)
    replace, renamed = os.replace, []
    fatal: int | None = None

    def counted(source, target):
        if len(renamed) == fatal:
            raise Killed
        renamed.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    whole = iceprobe.fit(store, ["knn", "linear"], output=tmp_path / "whole", **ASK)
    assert renamed[-1] == "results.json"
    assert len(renamed) >= 5
    for fatal in range(len(renamed)):
        run = tmp_path / f"stopped-{fatal}"
        renamed.clear()
        try:
            iceprobe.fit(store, ["knn", "linear"], output=run, **ASK)
        except Killed:
            assert not (run / "results.json").exists()
        else:
            raise AssertionError("it wasn't stopped")
        was, fatal = fatal, None
        assert content(iceprobe.fit(store, ["knn", "linear"], output=run, **ASK)) == content(whole)
        assert files(run) == files(tmp_path / "whole"), was
