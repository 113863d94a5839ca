"""The grammar of adaptations."""

import subprocess
import sys

import pytest

from iceprobe import IceprobeError
from iceprobe.adaptation import ADAPTATIONS, adaptation_label
from iceprobe.adaptation.registry import adaptation_options, pairs, parse_adaptation


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("lora", "lora"),
        ("lora?rank=8&blocks=all&target=value", "lora"),
        ("lora?rank=16&blocks=-1", "lora?blocks=-1&rank=16"),
        ("lora?modules=mlp.fc1", "lora?modules=mlp.fc1"),
        ("lora?lr_scale=0.30", "lora"),
        ("full?layer_decay=0.75", "full"),
        ("full?layer_decay=0.9&lr_scale=1", "full?layer_decay=0.9&lr_scale=1"),
        ("none", "none"),
    ],
)
def test_labels_are_canonical(text, label):
    assert adaptation_label(text) == label
    assert adaptation_label(label) == label


def test_examples_parse_and_options_are_typed():
    for name in ADAPTATIONS:
        for text in ADAPTATIONS[name].examples:
            parse_adaptation(text)
    options = adaptation_options(parse_adaptation("lora?blocks=0,2&modules=mlp.fc1,proj"))
    assert options == {
        "rank": 8, "alpha": None, "blocks": (0, 2), "target": ("value",),
        "modules": ("mlp.fc1", "proj"), "lr_scale": 0.3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lore", "Did you mean lora"),
        ("lora?rnk=8", "Did you mean rank"),
        ("lora?rank=0", "at least 1"),
        ("lora?rank=x", "rank='x'"),
        ("lora?target=key&modules=proj", "both target and modules"),
        ("full?layer_decay=1.5", "at most 1"),
        ("bitfit?lr_scale=-1", "above 0"),
        ("peft:lora", "write 'lora'"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(IceprobeError, match="(?s)" + said.replace("?", r"\?")) as error:
        parse_adaptation(text)
    assert "\n" not in str(error.value)


def test_every_adaptation_meets_every_probe_unless_it_brings_its_own():
    assert pairs(["none", "lora?rank=8", "lora?rank=4 + ep12?out_dim=48"], ["linear", "ep12"]) == [
        ("none", "linear"),
        ("none", "ep12"),
        ("lora", "linear"),
        ("lora", "ep12"),
        ("lora?rank=4", "ep12?out_dim=48"),
    ]
    with pytest.raises(IceprobeError, match="is named twice"):
        pairs(["lora", "lora + linear"], ["linear"])
    with pytest.raises(IceprobeError, match="no loss to learn from"):
        pairs(["bitfit"], ["knn"])
    assert pairs(["none"], ["knn"]) == [("none", "knn")]


def test_the_grammar_needs_no_torch():
    code = "import sys, iceprobe.adaptation as a; a.adaptation_label('lora'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
