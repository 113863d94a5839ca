"""What the version before wrote is read: stores, run folders, results, by the same commands and calls.

`tests/earlier/0.1` was written by the commit 824673d in a folder of its own::

    iceprobe extract --backbone bundled:mae-tiny --data bundled:fashion --limit 2 --tokens int8 --output stores
    iceprobe extract --backbone bundled:mae-tiny --data bundled:fashion --limit 40 --no-patches --output stores
    iceprobe fit stores/mae-tiny--fashion-755ddf7e3221 --probe knn --probe linear --protocol paper --seeds 2
      --epochs 2 --output runs/paper
    iceprobe fit stores/mae-tiny--fashion-755ddf7e3221 --probe linear --seeds 1
    iceprobe run --backbone bundled:mae-tiny --data bundled:fashion --limit 40 --probe knn --probe linear
      --probe "ep2?out_dim=12" --seeds 1 --epochs 2 --amp bfloat16

``runs/adapt`` and ``runs/segment`` are of `iceprobe adapt` and `iceprobe segment` of that commit (`test_results.py`).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import iceprobe as api
from tests.cli.conftest import Ended, iceprobe

__all__ = ["iceprobe"]

EARLIER = Path(__file__).parent / "0.1"
POOLED = "stores/mae-tiny--fashion-755ddf7e3221"
INT8 = "stores/mae-tiny--fashion-3841caf38eb6"
RUN = "runs/mae-tiny-fashion-heldout-fce225"
FIT = "runs/mae-tiny-fashion-755ddf7e3221-heldout-61cb97"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of it all."""
    for name in ("stores", "runs"):
        shutil.copytree(EARLIER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(run: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((EARLIER / run / "results.json").read_text())[
        "results"
    ]
    return entries


@pytest.mark.parametrize("store", [POOLED, INT8])
def test_stores_are_read_and_found_again(store: str, here: Path) -> None:
    opened = api.Store.open(store, verify=True)
    shard = load_file(EARLIER / store / "train-00000.safetensors")
    assert np.array_equal(opened["train"].mean.numpy(), shard["mean"])
    asked: dict[str, Any] = (
        {"limit": 2, "tokens": "int8"} if store == INT8 else {"limit": 40, "patches": False}
    )
    again = api.extract("bundled:mae-tiny", "bundled:fashion", "stores", **asked)
    assert again.identity == opened.identity
    assert again.path == Path(store)


@pytest.mark.parametrize(
    ("run", "command"),
    [
        (
            RUN,
            "run --backbone bundled:mae-tiny --data bundled:fashion --limit 40 --probe knn --probe linear"
            " --probe ep2?out_dim=12 --seeds 1 --epochs 2 --amp bfloat16",
        ),
        (RUN, f"run {RUN}/config.yaml"),
        (FIT, f"fit {POOLED} --probe linear --seeds 1"),
        ("runs/paper", "fit runs/paper/config.yaml"),
    ],
)
def test_the_same_command_shows_the_finished_run(
    run: str, command: str, here: Path, iceprobe: Callable[..., Ended]
) -> None:
    before = (here / run / "results.json").read_bytes()
    ended = iceprobe(*command.split())
    assert ended.code == 0, ended.err
    assert f"{run} is complete already" in ended.out
    assert (here / run / "results.json").read_bytes() == before


def test_the_same_call_reads_the_finished_run(here: Path) -> None:
    results = api.fit(
        POOLED, ["knn", "linear"], protocol="paper", seeds=2, epochs=2, output="runs/paper"
    )
    for result, entry in zip(results, written("runs/paper"), strict=True):
        assert result.top1.values == entry["top1"]["values"]
    modules = results[1].probes
    assert modules is not None
    assert len(modules) == 2
    weights = load_file(EARLIER / "runs/paper" / "probes" / "linear-seed1.safetensors")
    assert np.array_equal(
        modules[1].classifier.weight.detach().numpy(), weights["classifier.weight"]
    )


def test_another_setting_is_still_refused(here: Path, iceprobe: Callable[..., Ended]) -> None:
    ended = iceprobe("fit", "runs/paper/config.yaml", "epochs=3")
    assert ended.code == 2
    assert "another configuration (epochs 2 → 3)" in ended.err
