"""The backbones, data sets and stores of a run or campaign, each loaded or extracted once."""

import functools
from typing import TYPE_CHECKING, Any

import iceprobe
from iceprobe.cli.console import Bars
from iceprobe.cli.estimate import print_estimate
from iceprobe.cli.other_sets import check_tests
from iceprobe.cli.paths import check_features
from iceprobe.cli.sources_seen import Seen, SourcesSeen, State, state_of
from iceprobe.cli.stages import check_fit, extraction_of, live_of
from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.specs import parse_spec, with_options
from iceprobe.datasets.registry import check_train
from iceprobe.machine.processes import first
from iceprobe.settings import Run
from iceprobe.store.format import BackboneRecord
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone
    from iceprobe.datasets import Dataset
    from iceprobe.store import Store


def load_grouped(spec: str, group: str | None) -> "Dataset":
    """The data set of ``spec``, read with the column ``group`` if its source has columns."""
    from iceprobe.datasets import DATASETS

    parsed = parse_spec(spec)
    takes = (parsed.kind or "") in DATASETS and "group" in DATASETS[parsed.kind or ""].options
    if group is not None and takes and "group" not in parsed.options:
        spec = str(with_options(parsed, {"group": group}))
    return iceprobe.load_dataset(spec)


class Sources:
    """The `TokenSource` of a run or campaign on images.

    Args:
        config: as given; a backbone may read several layers.
    """

    def __init__(self, config: Run):
        self.config = config
        # Spec of one layer → spec of its backbone with all layers.
        self._origin: dict[str, str] = {}
        self._backbones: dict[str, Backbone] = {}
        self._load_dataset = functools.cache(load_grouped)
        self._stores: dict[tuple[str, str], Store] = {}
        self._identities: dict[tuple[str, str], set[str]] = {}
        self._files: dict[str, State | None] = {}  # of each backbone, before it was loaded
        self._seen = SourcesSeen.read(config.output) if config.output else SourcesSeen()

    def single_layers(self) -> Run:
        """The configuration with each backbone split into backbones of one layer."""
        specs: list[str] = []
        for text in self.config.backbone:
            asked = text
            if self.config.layers is not None:
                spec = with_options(parse_spec(text), {"layer": self.config.layers})
                asked = str(spec)
            layer = parse_spec(asked).options.get("layer", "-1")
            if layer != "all" and "," not in layer:
                self._origin[text] = text
                specs.append(text)
                continue
            for one in self._backbone(asked).per_layer():
                self._origin[one.spec] = asked
                specs.append(one.spec)
        return self.config.model_copy(update={"backbone": specs})

    def backbone(self, run: Run) -> "Backbone":
        """The backbone of a run of one layer."""
        (asked,) = run.backbone
        singles = self._backbone(self._origin[asked]).per_layer()
        return next(one for one in singles if len(singles) == 1 or one.spec == asked)

    def dataset(self, run: Run) -> "Dataset":
        (asked,) = run.data
        return self._load_dataset(asked, run.groups)

    def store(self, run: Run, progress: Bars) -> "Store":
        """The store of a run; the stores of its backbone's other layers are written in the same pass."""
        (asked,), (data,) = run.backbone, run.data
        if (asked, data) not in self._stores:
            dataset, single = self.dataset(run), self.backbone(run)
            self.check(run)
            first(lambda: print_estimate(single, dataset, run))
            if run.live:
                live = iceprobe.live(single, dataset, live_of(run))
                self._remember(asked, live.manifest.backbone, live.manifest.shape)
                self._stores[asked, data] = live
                return live
            first(lambda: check_features(run.features, "--features"))
            whole = self._backbone(self._origin[asked])
            made = iceprobe.extract_layers(
                whole, dataset, run.features, extraction_of(run), progress=progress
            )
            whole.to("cpu")  # a campaign's next backbone may need the device's memory
            for one, store in zip(whole.per_layer(), made, strict=True):
                spec = one.spec if len(made) > 1 else asked
                self._remember(spec, store.manifest.backbone, store.manifest.shape)
                self._stores[spec, data] = store
        return self._stores[asked, data]

    def check(self, run: Run) -> None:
        """Refuse probes, budgets and draws that don't fit the run's backbone and images."""

        from iceprobe.store.layout import chosen_rows

        dataset = self.dataset(run)
        check_train(dataset.splits, dataset.spec)
        targets = dataset.splits["train"].targets
        rows = chosen_rows(len(targets), min(run.limit or len(targets), len(targets)))
        check_fit(run, self.backbone(run), dataset.classes, targets[rows], dataset.task)
        check_tests(run, dataset.classes, dataset.task)

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
        from iceprobe.store.request import describe_as, live_settings, make_settings

        (asked,) = run.backbone
        if asked in self._seen.backbones:
            seen = self._seen.backbones[asked]
            backbone, shape = seen.backbone, seen.shape
            log_assumptions(backbone.assumed)
        else:
            single = self.backbone(run)
            backbone, shape = BackboneRecord.of(single), single.shape
            self._remember(asked, backbone, shape)
        device = run.device or "cpu"
        if run.live:
            settings = live_settings(live_of(run), device)
        else:
            settings = make_settings(extraction_of(run), device)
        wanted = describe_as(
            backbone, shape, self.dataset(run), settings, splits=None, limit=run.limit
        )
        serving = [
            settings.model_copy(update={"patches": patches, "device": kind})
            for patches in {settings.patches, True}
            for kind in ([settings.device] if run.device else ["cpu", "cuda"])
        ]
        return {wanted.model_copy(update={"settings": one}).identity for one in serving}

    def other_sets(self, run: Run) -> dict[str, Any]:
        """The options of `iceprobe.test` for a finished run: its backbone and the folder of stores."""
        return {"backbone": self.backbone(run), "features": run.features, "device": run.device}

    def keep(self) -> None:
        """Save in the run folder which files its backbones came from (`cli/sources_seen.py`)."""
        if self.config.output is not None and self._files:
            self._seen.write(self.config.output)

    def _remember(self, asked: str, backbone: BackboneRecord, shape: TokenShape) -> None:
        """Keep the record of a backbone loaded in this process, if files alone determine it."""
        files = self._files.get(self._origin[asked])
        if files is not None:
            self._seen.backbones[asked] = Seen(files=files, backbone=backbone, shape=shape)

    def _backbone(self, asked: str) -> "Backbone":
        if asked not in self._backbones:
            self._files[asked] = state_of(asked)
            self._backbones[asked] = iceprobe.load_backbone(asked)
        return self._backbones[asked]
