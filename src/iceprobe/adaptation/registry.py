"""Adaptations by name, and their grammar: ``lora?rank=8&blocks=-1``, ``bitfit``, ``none``.

This module doesn't import torch: ``iceprobe ls adaptations`` shows the table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iceprobe.backbones.layers import parse_layers
from iceprobe.backbones.options import words
from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import Spec, above_zero, parse_spec, typed_options
from iceprobe.probes import PROBES, parse_probe, probe_label

FROZEN = "none"
ON = " + "  # between an adaptation and the probe on top of it


@dataclass(frozen=True)
class AdaptationOption:
    """The parser of a key's text, and the text of its default (``""``: none)."""

    convert: Callable[[str], Any]
    default: str = ""


@dataclass(frozen=True)
class AdaptationEntry(Entry):
    """One way to change a backbone; ``target(reader, examples, **options) -> Change``.

    It changes the reader's model in place and names the parameters that learn. ``examples`` are a
    batch to try the model with, as the reader takes it.

    Attributes:
        source: the publication.
        options: every key.
        examples: spec strings to copy from.
    """

    source: str = ""
    options: Mapping[str, AdaptationOption] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


def _decay(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError("give a number above 0 and at most 1")
    return value


def _rank(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("give at least 1")
    return value


def _scale(default: float) -> dict[str, AdaptationOption]:
    """The backbone's learning rate as a multiple of the probe's."""
    return {"lr_scale": AdaptationOption(above_zero, str(default))}


LEARNING_RATES = (1e-3, 3e-3, 1e-2)  # the grid of the probe's rates

ADAPTATIONS: Registry[AdaptationEntry] = Registry(
    "adaptation",
    {
        FROZEN: AdaptationEntry(None, "the backbone stays frozen: ordinary probes, for comparison"),
        "lora": AdaptationEntry(
            "iceprobe.adaptation.lora:attach",
            "W + (α/r)·BA on the value projection of every block, or on modules named",
            source="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models",
            options={
                "rank": AdaptationOption(_rank, "8"),
                "alpha": AdaptationOption(above_zero),  # the rank: a factor of 1
                "blocks": AdaptationOption(parse_layers, "all"),
                "target": AdaptationOption(words, "value"),
                "modules": AdaptationOption(words),
                **_scale(0.3),
            },
            examples=("lora?rank=8", "lora?rank=16&blocks=-1", "lora?modules=mlp.fc1"),
        ),
        "bitfit": AdaptationEntry(
            "iceprobe.adaptation.tuning:biases",
            "the backbone's bias vectors alone",
            source="Ben Zaken et al., BitFit",
            options=_scale(1.0),
            examples=("bitfit",),
        ),
        "layernorm": AdaptationEntry(
            "iceprobe.adaptation.tuning:norms",
            "weight and bias of the backbone's normalisation layers alone",
            source="Basu et al., Strong Baselines for Parameter Efficient Few-Shot Fine-Tuning",
            options=_scale(1.0),
            examples=("layernorm",),
        ),
        "full": AdaptationEntry(
            "iceprobe.adaptation.tuning:everything",
            "every weight, at learning rates that fall from the last block to the first",
            source="Clark et al., ELECTRA; He et al., Masked Autoencoders (layer-wise decay)",
            options={"layer_decay": AdaptationOption(_decay, "0.75"), **_scale(0.1)},
            examples=("full?layer_decay=0.75",),
        ),
    },
)


def parse_adaptation(text: str) -> Spec:
    """Parse ``lora?rank=8`` and check every key and value; defaults are left out.

    Raises:
        IceprobeError: for an unknown adaptation or key (with the nearest right ones), or a value
            that doesn't convert.
    """
    spec = parse_spec(text)
    if spec.kind:
        raise IceprobeError(f"adaptation {text!r} has a kind: write {text.partition(':')[2]!r}")
    options = ADAPTATIONS[spec.name].options
    values = typed_options(spec, {key: option.convert for key, option in options.items()})
    defaults = adaptation_options(Spec(None, spec.name))
    kept = {key: own for key, own in spec.options.items() if values[key] != defaults[key]}
    if {"target", "modules"} <= kept.keys():
        raise IceprobeError(f"adaptation {text!r} names both target and modules: keep one")
    return Spec(None, spec.name, kept)


def adaptation_options(spec: Spec) -> dict[str, Any]:
    """Typed values of all options of a parsed ``spec``, with defaults; ``None``: no value."""
    options = ADAPTATIONS[spec.name].options
    texts = {key: option.default for key, option in options.items()} | dict(spec.options)
    return {key: options[key].convert(text) if text else None for key, text in texts.items()}


def adaptation_label(text: str) -> str:
    """The shortest canonical text: ``lora`` for ``lora?rank=8&blocks=all``."""
    return str(parse_adaptation(text))


def pairs(adaptations: Sequence[str], probes: Sequence[str]) -> list[tuple[str, str]]:
    """Canonical labels of each adaptation with each probe, in the given order.

    ``lora?rank=4 + ep12?out_dim=48`` names its own probe and gets no other.

    Raises:
        IceprobeError: for what doesn't parse, a pair named twice, or k-NN on an adapted backbone.
    """
    found: list[tuple[str, str]] = []
    for text in adaptations:
        adaptation, plus, own = text.partition(ON.strip())
        for probe in [own.strip()] if plus else probes:
            pair = (adaptation_label(adaptation.strip()), probe_label(parse_probe(probe)))
            if pair in found:
                raise IceprobeError(f"{ON.join(pair)!r} is named twice: keep one")
            name = parse_probe(probe).name
            if PROBES[name].solver:
                raise IceprobeError(
                    f"probe {name!r} is solved on stored tokens and adapt trains its probes: take linear"
                )
            if pair[0] != FROZEN and name == "knn":
                raise IceprobeError(
                    f"probe 'knn' trains nothing, so {pair[0]!r} has no loss to learn from: take "
                    "it with --adapt none, and linear or ep32 here"
                )
            found.append(pair)
    if not found:
        raise IceprobeError("nothing to fit: give --adapt lora --probe linear")
    return found
