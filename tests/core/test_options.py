"""Functions that take a model of options: keywords, a settings object, earlier spellings, wrong ones."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.cli.app import GROUPS
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import Settings, options_of, takes
from iceprobe.settings import ExtractCall, FitCall, Fitting, Live, ProbeCall, Run


@takes(FitCall)
def fit(store: str, probes: Any = ("knn",), *, call: FitCall) -> tuple[str, Any, FitCall]:
    return store, probes, call


@takes(ExtractCall, root="features")
def extract(data: str, features: str | Path = "f", *, call: ExtractCall) -> tuple[Any, ExtractCall]:
    return features, call


def test_keywords_win_over_a_settings_object() -> None:
    _, _, call = fit("s", ["ep4"], Fitting(seeds=3, epochs=5), seeds=7, output="runs/x")
    assert (call.seeds, call.epochs, call.output) == (7, 5, Path("runs/x"))
    assert fit("s", settings=Fitting(seeds=3))[2].seeds == 3
    assert fit(store="s", probes=["a"])[:2] == ("s", ["a"])


def test_settings_of_a_kind_serve_what_adds_to_it() -> None:
    """A run's settings hold those of its fit; those of something else are refused."""
    run = Run(backbone=["b"], data=["d"], seeds=4)
    assert fit("s", settings=run)[2].seeds == 4
    with pytest.raises(
        IceprobeError, match=r"give iceprobe\.settings\.Fitting\(…\), or its options"
    ):
        fit("s", settings=Live())


def test_earlier_spellings_are_taken() -> None:
    assert fit("s", amp="bfloat16")[2].fit_dtype == "bfloat16"
    features, call = extract("d", root="stores", batch_size=8, amp="float16")
    assert (features, call.forward_batch_size, call.forward_dtype) == ("stores", 8, "float16")
    both = ProbeCall(amp="bfloat16")  # of both, as it always was
    assert (both.forward_dtype, both.fit_dtype) == ("bfloat16", "bfloat16")
    device = torch.device("cuda", 1)
    assert fit("s", device=device)[2].device == Fitting(device=device).device == "cuda:1"


def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    call = fit("s", seeds=np.int64(3), memory=1e6, learning_rates=np.array([0.1, 0.2]))[2]
    assert (call.seeds, call.memory, call.learning_rates) == (3, 1_000_000, [0.1, 0.2])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sedes": 3}, "unknown option of fit 'sedes'. Did you mean seeds?"),
        ({"seeds": 0}, "fit(seeds=0): give at least 1"),
        ({"seeds": "3"}, "fit(seeds='3'): give a whole number or None"),
        ({"fraction": 2.0}, "fit(fraction=2.0): should be less than or equal to 1"),
        ({"learning_rates": [0.0]}, "fit(learning_rates=[0.0]): give a number above 0"),
        ({"fit_dtype": "bfloat"}, "fit: unknown fit_dtype 'bfloat'. Did you mean bfloat16"),
        ({"output": "a\0b"}, "has a character in it that no file name has"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(IceprobeError) as error:
        fit("s", **wrong)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "model"),
    [("fit", "FitCall"), ("probe", "ProbeCall"), ("extract", "ExtractCall"), ("adapt", "AdaptCall"),
     ("segment", "SegmentCall"), ("plan_fit", "FitPlanning"), ("analyze", "AnalyzeCall"),
     ("from_tokens", "GivenTokens")],
)  # fmt: skip
def test_editors_see_every_option(name: str, model: str) -> None:
    shown = inspect.signature(getattr(iceprobe, name)).parameters
    options = getattr(iceprobe.settings, model).model_fields
    assert set(options) <= set(shown)
    assert all(shown[one].default == options[one].default for one in options)
    assert "settings" in shown


def test_every_option_of_a_command_has_a_line_of_help() -> None:
    models = [one for one in vars(iceprobe.settings).values() if isinstance(one, type)]
    for model in (one for one in models if issubclass(one, Settings) and one is not Settings):
        options = options_of(model)
        assert set(model.model_fields) - set(options) <= {"store"}  # an argument
        assert all(option.help.endswith((".", "…")) for option in options.values())
    assert "run" in GROUPS["Start here"]
