"""A claim as it is written down, and the runs it is read from.

Claims that name the same backbone, data and settings share one feature store and its fits: of the
probes that they need together only those are fitted that no earlier run has left in
``runs/claims/``. (Members of a fit don't influence each other, so it doesn't matter which are
fitted together.)
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

import iceprobe
from benchmarks.claims.rules import Rule
from benchmarks.study_cases import images
from iceprobe.adaptation.registry import ON, pairs
from iceprobe.analysis import Analysis
from iceprobe.backbones.bundled_models import NAMES
from iceprobe.cli.commands import AdaptRun
from iceprobe.cli.config import resolve
from iceprobe.core.specs import parse_spec
from iceprobe.datasets.base import Dataset
from iceprobe.probes import parse_probe, probe_label
from iceprobe.results import Result, read_results
from iceprobe.results.files import FILE_NAME

FOLDER = Path(__file__).parent / "experiments"
ROOT = Path(__file__).parents[2]
FEATURES = Path("features")
OTHER_CLUTTER = "clutter:"  # and a seed
OWN = "backbone"  # in place of a probe: the attention of its last block's class token

Progress = Callable[[str, int, int], None]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Strict):
    """Of a fit, as in ``iceprobe run``; replicates have their own held-out part each."""

    replicates: int = Field(5, ge=1)
    epochs: int = Field(ge=1)
    learning_rates: list[float] | None = Field(None, min_length=1)  # None: each kind's own
    limit: int | None = None


class Test(_Strict):
    """One number of the claim and the rule it is judged by; without a rule it is only told.

    Attributes:
        statistic: a name in ``measures.STATISTICS``.
        of: probes (of claim 7: adaptations).
        against: probes that they are compared with.
        quantity: what is counted or measured, where the statistic has several.
        at: D, classes and grid of a count that isn't made at the size of the data here.
        claims: numbers of those whose verdicts are looked at.
    """

    statistic: str
    of: list[str] = []
    against: list[str] = []
    quantity: str = ""
    at: dict[str, Any] = {}
    claims: list[int] = []
    rule: Rule | None = None

    @field_validator("of", "against", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Claim(_Strict):
    """One file of ``benchmarks/claims/experiments``.

    Attributes:
        data: as for ``iceprobe run``, or ``clutter:S``: the bundled items in clutter from seed S.
        settings: None where nothing is fitted for it, or ``config`` says how.
        config: of ``iceprobe adapt``, where the backbone is trained.
        caveat: what stands beside the verdict wherever it is told.
        reason: of a verdict other than "holds", as far as it is known.
    """

    number: int
    claim: str
    source: str
    data: str
    backbone: list[str] = Field(min_length=1)
    settings: Settings | None = None
    config: Path | None = None
    tests: list[Test] = Field(min_length=1)
    caveat: str = ""
    reason: str = ""

    @field_validator("backbone", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def probes(self) -> list[str]:
        """Canonical labels of every probe it needs, each once."""
        if self.settings is None:
            return []
        named = [p for test in self.tests if not test.at for p in [*test.of, *test.against]]
        return list(dict.fromkeys(probe_label(parse_probe(p)) for p in named if p != OWN))


def read_claims(folder: Path = FOLDER) -> list[Claim]:
    """All claims, by number."""
    files = sorted(folder.glob("*.yaml"))
    return sorted((Claim(**yaml.safe_load(f.read_text())) for f in files), key=lambda c: c.number)


def look(claim: Claim) -> Claim:
    """The same on few images, with one rate: how it runs, not what it finds."""
    if claim.settings is None:
        return claim
    few = Settings(replicates=2, epochs=3, learning_rates=[1e-2], limit=400)
    return claim.model_copy(update={"settings": few})


class NotThere(Exception):
    """A backbone that isn't bundled yet, or a run that was left out."""


class Runs:
    """Stores and results of backbones, made where they aren't there yet.

    Attributes:
        analyses: by store and label, kept from one test to the next.
        seconds: of extraction and fits made since it was built.

    Args:
        folder: of the runs.
        claims: all that there are.
        chosen: numbers of those to be read, by default all; what they need of one backbone is
            fitted in one go.
        adapt: whether to run what trains the backbone itself where its results aren't there.
        progress: of extractions and fits.
    """

    def __init__(
        self,
        folder: Path,
        claims: Sequence[Claim],
        chosen: Sequence[int] | None = None,
        *,
        adapt: bool = False,
        progress: Progress | None = None,
    ):
        self.folder, self.progress, self.adapt = folder, progress, adapt
        self.analyses: dict[tuple[str, str], Analysis] = {}
        self.seconds = 0.0
        self._claims = {claim.number: claim for claim in claims}
        self.chosen = list(self._claims) if chosen is None else list(chosen)
        self._stores: dict[tuple[str, str, int | None], list[iceprobe.Store]] = {}
        self._results: dict[str, dict[str, Result]] = {}

    def claim(self, number: int) -> Claim:
        """The claim of that number."""
        return self._claims[number]

    def _read_too(self) -> Iterator[Claim]:
        """Those chosen, and those whose verdicts they look at."""
        for number in self.chosen:
            yield self.claim(number)
            for test in self.claim(number).tests:
                yield from map(self.claim, test.claims)

    def backbones(self, claim: Claim) -> list[str]:
        """One spec for each backbone and layer."""
        return [spec for asked in claim.backbone for spec in _layers(asked)]

    def results(self, claim: Claim, backbone: str) -> dict[str, Result]:
        """Results by label of every probe that the claim needs.

        Raises:
            NotThere: if the backbone isn't bundled yet.
        """
        assert claim.settings is not None
        key = _key(claim, backbone)
        needed = list(
            dict.fromkeys(
                label
                for other in self._read_too()
                if other.settings == claim.settings
                and other.data == claim.data
                and backbone in self.backbones(other)
                for label in other.probes
            )
        )
        store = self.store(claim, backbone)
        found = self._results.setdefault(key, self._read(key, store))
        missing = [label for label in needed if label not in found]
        if missing:
            began = time.monotonic()
            folder = self.folder / key / _digest([store.identity, *missing])
            made = iceprobe.fit(
                store,
                missing,
                replicates=claim.settings.replicates,
                epochs=claim.settings.epochs,
                learning_rates=claim.settings.learning_rates,
                output=folder,
                progress=self.progress,
                command="make claims",
            )
            self.seconds += time.monotonic() - began
            found.update((result.probe, result) for result in made)
        return {label: found[label] for label in claim.probes}

    def adapted(self, claim: Claim) -> dict[str, Result]:
        """Results of ``iceprobe adapt CONFIG`` by label, as asked for in the file.

        Raises:
            NotThere: if there are none and they aren't to be made.
        """
        assert claim.config is not None
        config = resolve(AdaptRun, {}, ROOT / claim.config)
        assert config.output is not None
        if not (config.output / FILE_NAME).exists():
            if not self.adapt:
                raise NotThere(f"{config.output} isn't there: iceprobe adapt {claim.config}")
            print(f"  iceprobe adapt {claim.config} says how long it will take", flush=True)
            began = time.monotonic()
            command = [sys.executable, "-m", "iceprobe", "adapt", str(ROOT / claim.config)]
            subprocess.run(command, check=True)
            self.seconds += time.monotonic() - began
        asked = [ON.join(pair) for pair in pairs(config.adapt, config.probe)]
        return dict(zip(asked, read_results(config.output), strict=True))

    def fitting_seconds(self, claim: Claim) -> float:
        """Wall time of the fits that the claim reads, whenever they were made and for whom else."""
        found = 0.0
        if claim.config is not None:
            with contextlib.suppress(NotThere):
                found += sum(result.seconds for result in self.adapted(claim).values())
        if claim.settings is None:
            return found
        for backbone in self.backbones(claim):
            with contextlib.suppress(NotThere):
                found += sum(result.seconds for result in self.results(claim, backbone).values())
        return found

    def store(self, claim: Claim, backbone: str) -> iceprobe.Store:
        """The tokens of a backbone of one layer; layers asked for together are one pass."""
        limit = claim.settings.limit if claim.settings else None
        asked = next(text for text in claim.backbone if backbone in _layers(text))
        key = (asked, claim.data, limit)
        if key not in self._stores:
            began = time.monotonic()
            whole = load(asked)
            data = load_data(claim.data)
            self._stores[key] = iceprobe.extract_layers(
                whole, data, FEATURES, limit=limit, progress=self.progress
            )
            self.seconds += time.monotonic() - began
        return self._stores[key][_layers(asked).index(backbone)]

    def _read(self, key: str, store: iceprobe.Store) -> dict[str, Result]:
        """What earlier runs have left of these very tokens."""
        finished = sorted((self.folder / key).glob("*/results.json"))
        results = [result for file in finished for result in read_results(file.parent)]
        return {r.probe: r for r in results if r.store.identity == store.identity}


def load(backbone: str) -> iceprobe.Backbone:
    """The backbone of a spec.

    Raises:
        NotThere: if it is one of the bundled ones and doesn't ship yet.
    """
    _check_bundled(backbone)
    return iceprobe.load_backbone(backbone)


def load_data(name: str) -> Dataset:
    """The images of ``Claim.data``."""
    if name.startswith(OTHER_CLUTTER):
        return images("clutter", seed=int(name.removeprefix(OTHER_CLUTTER)))
    return iceprobe.load_dataset(name)


def _check_bundled(backbone: str) -> None:
    spec = parse_spec(backbone)
    if spec.kind == "bundled" and spec.name not in NAMES:
        raise NotThere(f"{backbone}: backbone not bundled yet")


def _layers(asked: str) -> list[str]:
    """``bundled:A?layer=1,3`` → one spec a layer, as ``Backbone.per_layer`` names them."""
    spec = parse_spec(asked)
    layers = spec.options.get("layer", "").split(",")
    if len(layers) == 1:
        return [asked]
    return [str(replace(spec, options={**spec.options, "layer": layer})) for layer in layers]


def _key(claim: Claim, backbone: str) -> str:
    """Readable, and another one for other settings."""
    assert claim.settings is not None
    words = f"{backbone}--{claim.data}".replace(":", "-").replace("?", "-").replace("/", "-")
    return f"{words}--{_digest([claim.settings.model_dump_json()])}"


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:6]
