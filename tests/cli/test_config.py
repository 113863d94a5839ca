"""Configurations: sizes, names, and what makes two of them the same run."""

from pathlib import Path

import pytest
import yaml

from iceprobe.cli.commands import AdaptRun, Run, SegmentRun, StoreRun
from iceprobe.cli.config import differences, readable_name, resolve, to_yaml
from iceprobe.core.errors import IceprobeError
from iceprobe.core.quantities import parse_bytes

GIVEN = {"backbone": "timm:vit_tiny_patch16_224?layer=-2", "data": "folder:/data/my birds"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("500 mb", 5 * 10**8),
        ("1.5g", 15 * 10**8),
        ("4GiB", 4 * 2**30),
        ("123", 123),
        (77, 77),
    ],
)
def test_sizes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["lots", "GB", "-3GB", "3 XB", ""])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="8GB"):
        parse_bytes(text)


def test_a_saved_configuration_reads_back_equal(tmp_path):
    config = resolve(Run, GIVEN, overrides=["learning_rates=[0.1, 0.01]", "memory=2GB"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = resolve(Run, {}, tmp_path / "config.yaml")
    assert again == config
    assert differences(again, yaml.safe_load(to_yaml(config))) == []


@pytest.mark.parametrize("given", ["1e-3,1e-2", "[1e-3, 1e-2]", "[0.001, 0.01]"])
def test_grids_are_written_with_commas_or_as_lists(given):
    # YAML takes 1e-3, which has no point, for a word.
    config = resolve(Run, GIVEN, overrides=[f"learning_rates={given}", "weight_decays=0"])
    assert config.learning_rates == [1e-3, 1e-2]
    assert config.weight_decays == [0.0]
    assert resolve(Run, GIVEN | {"weight_decays": "0, 1e-4"}).weight_decays == [0.0, 1e-4]


def test_names_are_readable_and_tell_requests_apart():
    config = resolve(Run, GIVEN)
    assert config.output is not None
    assert config.output.parent == Path("runs")
    assert config.output.name.startswith("vit_tiny_patch16_224-my-birds-heldout-")
    assert resolve(Run, GIVEN).output == config.output
    assert resolve(Run, GIVEN | {"seeds": 5}).output != config.output
    # Circumstances are no part of it.
    assert readable_name(config) == readable_name(config.model_copy(update={"workers": 4}))


def test_one_probe_may_be_written_without_a_list():
    assert resolve(Run, GIVEN, overrides=["probe=ep8?out_dim=96"]).probe == ["ep8?out_dim=96"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probe=[]", "--probe"),
        ("learning_rates=[0]", "--learning-rates"),
        ("learning_rates=[]", "--learning-rates"),
        ("learning_rates=.inf", "finite"),
        ("batch_size=1", "greater than or equal to 2"),
        ("seeds=[1", "not YAML"),
    ],
)
def test_wrong_values_are_named(override, words):
    with pytest.raises(IceprobeError, match=words):
        resolve(Run, GIVEN, overrides=[override])


def test_a_fit_on_a_store_is_named_after_it():
    config = resolve(StoreRun, {"store": Path("features/tiny--birds-0123"), "probe": ["knn"]})
    assert config.output is not None
    assert config.output.name.startswith("tiny-birds-0123-heldout-")


def test_the_dtype_of_training_is_an_option_of_its_own(tmp_path):
    """It came later: a run at its default is named and written as before."""
    config = resolve(Run, GIVEN | {"fit_dtype": "bfloat16"})
    assert (config.fit_dtype, config.forward_dtype) == ("bfloat16", "float32")
    assert "fit_dtype: bfloat16" in to_yaml(config)
    assert resolve(Run, GIVEN | {"fit_dtype": "float32"}).output == resolve(Run, GIVEN).output
    assert config.output != resolve(Run, GIVEN).output
    assert "fit_dtype" not in to_yaml(resolve(Run, GIVEN))


ONE = {"backbone": "bundled:mae-tiny", "data": "bundled:fashion"}


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        (AdaptRun, ONE, "mae-tiny-fashion-adapt-d54d64"),
        (AdaptRun, ONE | {"amp": "bfloat16", "epochs": 3, "learning_rates": "1e-3,1e-2",
                          "checkpointing": True, "limit": 50}, "mae-tiny-fashion-adapt-ed1e49"),
        (SegmentRun, ONE, "mae-tiny-fashion-segment-b51fa1"),
        (SegmentRun, ONE | {"amp": "bfloat16", "tokens": "int8", "memory": "2GB",
                            "forward_batch_size": 8}, "mae-tiny-fashion-segment-0a88c4"),
        (Run, ONE, "mae-tiny-fashion-heldout-48724f"),
        (Run, ONE | {"views": 2, "augmentation": "light", "amp": "float16", "tokens": "int8",
                     "shots": "1,5", "memory": "1GB", "workers": 2},
         "mae-tiny-fashion-heldout-14222c"),
        (Run, ONE | {"live": True, "augmentation": "none", "forward_batch_size": 8, "engine": "ray",
                     "coordinates": "raw", "halving": True, "min_steps": 0},
         "mae-tiny-fashion-heldout-8f4437"),
        (Run, {"backbone": ["a:b", "c:d"], "data": ["e:f"], "layers": "all", "fraction": "0.1,0.5",
               "budget": "200k", "device": "cpu", "on_bad_image": "skip"},
         "b-and-1-more-f-heldout-6c4ba0"),
        (StoreRun, {"store": "features/x", "shuffle": "rows", "protocol": "paper", "replicates": 2,
                    "weight_decays": "0,1e-3", "batch_size": 32}, "x-paper-fae955"),
    ],
)  # fmt: skip
def test_runs_are_named_as_the_version_before_named_them(model, options, name):
    """So that the same command finds its folder again; names seen of commit 824673d."""
    assert resolve(model, options).output == Path("runs") / name
