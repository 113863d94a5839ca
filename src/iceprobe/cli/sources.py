"""The backbones, data sets and stores of a run or campaign, each loaded or extracted once."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import iceprobe
from iceprobe.backbones.kinds import singular
from iceprobe.cli.console import Bars
from iceprobe.cli.estimate import print_estimate
from iceprobe.cli.other_sets import OtherSets, has_stores
from iceprobe.cli.paths import check_features
from iceprobe.cli.sources_seen import Seen, SourcesSeen, State, state_of
from iceprobe.cli.stages import (
    check_fit,
    extraction_of,
    fitting_of,
    has_budget,
    live_of,
    reads_patches,
)
from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec, with_options
from iceprobe.datasets.registry import load_grouped
from iceprobe.machine.processes import first
from iceprobe.probes.inputs import input_of, layers_named, names_layers
from iceprobe.protocols.protocol import check_splits, reported
from iceprobe.settings import Run
from iceprobe.store.format import BackboneRecord
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone
    from iceprobe.datasets import Dataset
    from iceprobe.store import Store
    from iceprobe.store.format import Manifest


@dataclass(frozen=True)
class Reading:
    """What one cell reads of a backbone.

    Attributes:
        whole: key of the backbone whose layers are extracted in one pass, for this cell and others.
        layers: those of this cell, from 0; ``None``: the only one.
        together: whether its probes read them side by side.
    """

    whole: str
    layers: tuple[int, ...] | None = None
    together: bool = False


class Sources:
    """The `TokenSource` of a run or campaign on images.

    Args:
        config: as given; a backbone may read several layers, and probes may read several together.

    Attributes:
        probes: spec of a cell's backbone → its probes.
    """

    def __init__(self, config: Run):
        self.config, self.probes = config, dict[str, list[str]]()
        self._together = [text for text in config.probe if names_layers(text)]
        self._apart = [text for text in config.probe if not names_layers(text)]
        self._readings: dict[str, Reading] = {}
        self._backbones: dict[str, Backbone] = {}
        self.tests = OtherSets()
        self._load_dataset = functools.cache(load_grouped)
        self._stores: dict[tuple[str, str], Store] = {}
        self._identities: dict[tuple[str, str], set[str]] = {}
        self._files: dict[str, State | None] = {}  # of each backbone, before it was loaded
        self._seen = SourcesSeen.read(config.output) if config.output else SourcesSeen()

    def single_layers(self) -> Run:
        """The configuration with a backbone a cell.

        One of each layer asked for, and one of the layers that probes name with ``layers=``.
        """
        specs: list[str] = []
        for text in self.config.backbone:
            spec = parse_spec(text)
            if self.config.layers is not None:
                spec = with_options(spec, {"layer": self.config.layers})
            asked = str(spec) if self.config.layers is not None else text
            found = self._cells_of(asked)
            for one, reading in found.items():
                self._readings[one] = reading
                self.probes[one] = self._together if reading.together else self._apart
            specs += found
        return self.config.model_copy(update={"backbone": specs})

    def _cells_of(self, asked: str) -> dict[str, Reading]:
        """The cells of one backbone: spec → what is read."""
        layer = parse_spec(asked).options.get("layer", "-1")
        several = layer == "all" or "," in layer
        apart = bool(self._apart) or has_budget(self.config)
        if not self._together:
            if not several:
                return {asked: Reading(asked)}
            singles = self._backbone(asked).per_layer()
            return {one.spec: Reading(asked, one.layers) for one in singles}
        given = self._backbone(asked)
        together = given.at_layers(self._named(given))
        layers = [*(given.layers if apart else ()), *together.layers]
        whole = given.at_layers(sorted(set(layers)))
        self._backbones[whole.spec], self._files[whole.spec] = whole, self._files[asked]
        found: dict[str, Reading] = {}
        if apart:
            for one in given.per_layer():
                found[one.spec if several else asked] = Reading(whole.spec, one.layers)
        if together.spec in found:
            raise IceprobeError(
                f"probe {self._together[0]!r} names the one layer that {asked!r} reads: leave layers out"
            )
        return {**found, together.spec: Reading(whole.spec, together.layers, together=True)}

    def _named(self, backbone: "Backbone") -> list[int]:
        """The layers that probes name, from 0, in order.

        Raises:
            IceprobeError: if the backbone lacks one.
        """
        depth = backbone.depth or 0
        for text in self._together:
            for layer in layers_named([text]):
                if depth and not -depth <= layer < depth:
                    raise IceprobeError(
                        f"probe {text!r}: layer {layer} of {backbone.spec!r} is out of range "
                        f"(0 to {depth - 1}); -1 is the last"
                    )
        return sorted({layer % max(depth, 1) for layer in layers_named(self._together)})

    def backbone(self, run: Run) -> "Backbone":
        """The backbone of a run: of one layer, or of those that its probes read together."""
        reading = self._reading(run)
        whole = self._backbone(reading.whole)
        if reading.layers is None:
            return whole
        if reading.together:
            return whole.at_layers(reading.layers)
        (single,) = (one for one in whole.per_layer() if one.layers == reading.layers)
        return single

    def shape(self, run: Run) -> TokenShape:
        """Of the tokens that the probes of a run read."""
        backbone = self.backbone(run)
        return backbone.joined_shape if self._reading(run).together else backbone.shape

    def _reading(self, run: Run) -> Reading:
        (asked,) = run.backbone
        return self._readings[asked]

    def dataset(self, run: Run) -> "Dataset":
        (asked,) = run.data
        return self._load_dataset(asked, run.groups)

    def store(self, run: Run, progress: Bars) -> "Store":
        """The store of a run; the stores of its backbone's other layers are written in the same pass."""
        (asked,), (data,) = run.backbone, run.data
        if (asked, data) not in self._stores:
            dataset, reading = self.dataset(run), self._reading(run)
            self.check(run)
            first(lambda: print_estimate(self.backbone(run), self.shape(run), dataset, run))
            if run.live:
                live = iceprobe.live(self.backbone(run), dataset, live_of(run))
                self._remember(asked, live.manifest.backbone, live.manifest.shape)
                self._stores[asked, data] = live
                return live
            first(lambda: check_features(run.features, "--features"))
            self._extract(reading.whole, run, progress)
        return self._stores[asked, data]

    def _extract(self, key: str, run: Run, progress: Bars) -> None:
        """Write the stores of all cells that read the backbone called ``key``, in one pass."""
        from iceprobe.store.writer import extract_layers_with

        (data,) = run.data
        whole, dataset = self._backbone(key), self.dataset(run)
        cells = {spec: one for spec, one in self._readings.items() if one.whole == key}
        patches = self._layers_with_patches(cells, whole)
        settings = extraction_of(run).model_copy(update={"patches": bool(patches)})
        bare = [layer for layer in whole.layers if layer not in patches]
        made = extract_layers_with(
            bare if patches else (), whole, dataset, run.features, settings, progress=progress
        )
        whole.to("cpu")  # a campaign's next backbone may need the device's memory
        stores = dict(zip(whole.layers, made, strict=True))
        for spec, reading in cells.items():
            layers = whole.layers if reading.layers is None else reading.layers
            mine = [stores[layer] for layer in layers]
            for one in mine:
                name = spec if not reading.together else one.manifest.backbone.spec
                self._remember(name, one.manifest.backbone, one.manifest.shape, whole=key)
            self._stores[spec, data] = iceprobe.Store.joined(mine) if reading.together else mine[0]

    def _layers_with_patches(self, cells: Mapping[str, Reading], whole: "Backbone") -> set[int]:
        """The layers whose patch tokens some probe reads."""
        found: set[int] = set()
        for reading in cells.values():
            if not reading.together:
                apart = self.config.model_copy(update={"probe": self._apart})
                found |= set(reading.layers or whole.layers) if reads_patches(apart) else set()
                continue
            inputs = [input_of(whole.joined_shape, text) for text in self._together]
            found |= {layer for one in inputs if one.of_tokens for layer in one.layers}
        return found

    def check(self, run: Run) -> None:
        """Refuse probes, budgets, limits and draws that don't fit the run's backbone and images."""
        from iceprobe.datasets.token_split import check_images
        from iceprobe.fitting.checks import check_trained
        from iceprobe.fitting.other_fit import Predicts
        from iceprobe.store.layout import chosen_rows
        from iceprobe.tasks.registry import pooled_task

        dataset = self.dataset(run)
        check_images(dataset)
        check_splits(dataset.splits, reported(fitting_of(run)), dataset.spec, folds=True)
        targets = dataset.splits["train"].targets
        rows = chosen_rows(len(targets), min(run.limit or len(targets), len(targets)))
        groups = dataset.groups("train", run.groups)
        groups = None if groups is None else groups[rows]
        check_fit(run, self.shape(run), dataset.classes, targets[rows], dataset.task, groups)
        task, listed = pooled_task(dataset.task), len(targets)
        check_trained(
            task, targets[rows], dataset.classes, listed, run.split, singular(dataset.kind)
        )
        if run.test:
            record = self._wanted(run).backbone if has_stores(run) else None
            what = dataset.task, dataset.classes, dataset.units, run.backbone[0], record
            self.tests.check(run, Predicts(*what, dataset.group))

    def identities(self, run: Run) -> set[str]:
        """Identities of the stores that would serve ``run`` now; nothing is extracted.

        A store with patches also serves probes that read none. Without a requested device, tokens
        from any kind of device serve.
        """
        key = (run.backbone[0], run.data[0])
        if key not in self._identities:  # hashing weights takes a second a gigabyte
            self._identities[key] = self._identify(run)
        return self._identities[key]

    def _identify(self, run: Run) -> set[str]:
        whole = self._wanted(run)
        settings = whole.settings
        serving = [
            settings.model_copy(update={"patches": patches, "device": kind})
            for patches in {settings.patches, True}
            for kind in ([settings.device] if run.device else ["cpu", "cuda"])
        ]
        return {whole.model_copy(update={"settings": one}).identity for one in serving}

    def _wanted(self, run: Run) -> "Manifest":
        """The store that ``run`` asks for now."""
        from iceprobe.store.joined_manifest import joined_manifest
        from iceprobe.store.request import describe_as, live_settings, make_settings

        device = run.device or "cpu"
        if run.live:
            settings = live_settings(live_of(run), device)
        else:
            settings = make_settings(extraction_of(run), device)
        dataset = self.dataset(run)
        wanted = [
            describe_as(backbone, shape, dataset, settings, splits=None, limit=run.limit)
            for backbone, shape in self._records(run)
        ]
        return joined_manifest(wanted) if self._reading(run).together else wanted[0]

    def _records(self, run: Run) -> list[tuple[BackboneRecord, TokenShape]]:
        """Record and shape of the backbone at each layer of a run."""
        (asked,) = run.backbone
        reading = self._reading(run)
        if not reading.together and asked in self._seen.backbones:
            seen = self._seen.backbones[asked]
            log_assumptions(seen.backbone.assumed)
            return [(seen.backbone, seen.shape)]
        found = []
        for single in self.backbone(run).per_layer():
            name = single.spec if reading.together else asked
            if name in self._seen.backbones:
                seen = self._seen.backbones[name]
                backbone, shape = seen.backbone, seen.shape
            else:
                backbone, shape = BackboneRecord.of(single), single.shape
                self._remember(name, backbone, shape, whole=reading.whole)
            found.append((backbone, shape))
        return found

    def other_sets(self, run: Run) -> dict[str, Any]:
        """The options of `iceprobe.test` for a finished run: its backbone and the folder of stores."""
        return {"backbone": self.backbone(run), "features": run.features, "device": run.device}

    def keep(self) -> None:
        """Save in the run folder which files its backbones came from (`cli/sources_seen.py`)."""
        if self.config.output is not None and self._files:
            self._seen.write(self.config.output)

    def _remember(
        self, asked: str, backbone: BackboneRecord, shape: TokenShape, whole: str | None = None
    ) -> None:
        """Keep the record of a backbone loaded in this process, if files alone determine it."""
        files = self._files.get(whole or self._readings[asked].whole)
        if files is not None:
            self._seen.backbones[asked] = Seen(files=files, backbone=backbone, shape=shape)

    def _backbone(self, asked: str) -> "Backbone":
        if asked not in self._backbones:
            self._files[asked] = state_of(asked)
            self._backbones[asked] = iceprobe.load_backbone(asked)
        return self._backbones[asked]
