"""A wall clock that jumps by hours, either way, changes no duration and no pace."""

import itertools
import re
import time
from pathlib import Path
from types import SimpleNamespace

import iceprobe
from iceprobe.cli.console import Bars
from iceprobe.fitting import phases
from iceprobe.fitting.checkpoint import Checkpoint
from tests.fitting.test_api import planted_dataset
from tests.store.conftest import make_backbone

QUICK = dict(seeds=1, batch_size=64, learning_rates=[1e-2])


def test_a_jumping_clock_shows_in_no_duration(tmp_path, monkeypatch):
    jumps = itertools.cycle([0.0, 7.2e3, -3.6e4, 1e9])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    store = iceprobe.extract(make_backbone(), planted_dataset(), "features", batch_size=16)
    runs = [iceprobe.fit(store, ["knn", "ep2"], epochs=2, **QUICK) for _ in range(2)]
    took = time.monotonic() - began
    for results in runs:
        assert all(0 <= result.seconds <= took for result in results)
    assert len(list(Path("runs").iterdir())) == 2
    with Bars() as bars:
        before = time.monotonic()
        bars("stage", 1, 10)
        bars("stage", 5, 10)
        (task,) = bars._progress.tasks
        assert 0 <= task.elapsed <= time.monotonic() - before
        pace = time.monotonic() - before  # of at least one step
        assert task.time_remaining is None or 0 <= task.time_remaining <= 5 * pace + 1


def test_states_are_saved_at_the_monotonic_clocks_pace(tmp_path, monkeypatch):
    """Nine epochs of 9 seconds are saved when more than 20 have passed, and at the end."""
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path / "f", batch_size=16)
    epochs: list[int] = []
    seconds = {"now": 1e6}
    evaluate = phases.evaluate

    def slowly(phase, *arguments, **named):
        seconds["now"] += 9
        return evaluate(phase, *arguments, **named)

    monkeypatch.setattr(phases, "evaluate", slowly)
    monkeypatch.setattr(phases, "time", SimpleNamespace(monotonic=lambda: seconds["now"]))
    monkeypatch.setattr(time, "time", lambda: 1e9 - seconds["now"])  # runs backwards
    monkeypatch.setattr(Checkpoint, "save", lambda self, saved: epochs.append(saved.phase["epoch"]))
    results = iceprobe.fit(
        store, ["linear"], output=tmp_path / "r", epochs=9, protocol="paper", **QUICK
    )
    assert epochs == [3, 6, 9]
    assert results[0].seconds == 81


def test_no_duration_is_read_from_the_wall_clock():
    source = Path(iceprobe.__file__).parent
    wall = re.compile(r"\btime\.time\(|\butcnow\(|\.now\(")
    found = {
        str(file.relative_to(source)): len(wall.findall(file.read_text()))
        for file in source.rglob("*.py")
        if wall.search(file.read_text())
    }
    assert found == {"results/provenance.py": 1}  # when a result was created
