"""``iceprobe segment``: segmentation probes on patch tokens, where the images have masks."""

import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import iceprobe
from iceprobe import settings
from iceprobe.cli.arguments import resolve_arguments
from iceprobe.cli.config import to_yaml
from iceprobe.cli.console import Bars, console, say, table_of
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.cli.paths import check_features
from iceprobe.cli.signature import Arguments, Given, options
from iceprobe.cli.sources import Sources
from iceprobe.cli.stages import check_features_of, print_duration, tell_complete
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.machine.temporary import new_folder
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.segmentation_files import PICTURE_NAME, read_segmentations
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.settings import Extraction, Run, SegmentRun

if TYPE_CHECKING:
    from iceprobe.store import Store

log = logging.getLogger("iceprobe")


@options(SegmentRun)
def segment(given: Given, arguments: Arguments = None) -> None:
    """Fit segmentation probes on patch tokens: which class does every pixel belong to?

    For data sets with masks: pixels on an image's mask have its class, the others are background.
    Learning rate and epoch are selected by mean IoU on a tenth of train, the probes are fitted
    again on all of it, the test split is read once. Ends with a table, dense.json, dense.csv,
    segmentation.png and report.html in the run folder. Detection is out of scope.

    \b
    Examples:
      iceprobe segment --backbone bundled:mae-tiny --data bundled:fashion-clutter
      iceprobe segment --backbone timm:A --data pets?root=/data --probe linear --probe ep16
      iceprobe segment config.yaml seeds=5 output=runs/five-seeds
    """
    execute(resolve_arguments(SegmentRun, given, arguments))


def execute(config: SegmentRun) -> None:
    """Extract what isn't stored yet, fit, write the run folder, show the table.

    A finished run is shown, not run again.
    """
    from iceprobe.fitting.segmentation import check_probes

    check_probes(config.probe)
    folder = RunFolder(config)
    if folder.state == "finished":
        results = read_segmentations(folder.path)
        check_features_of(results, folder, _identities(config))
        if not folder.report.exists():  # of an earlier iceprobe
            iceprobe.report(results, folder.report)
        tell_complete(folder)
    else:
        results = _run(config, folder.path)
    _show(results, folder)


def _run(config: SegmentRun, output: Path) -> list[Segmentation]:
    check_features(config.features, "--features")
    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log, new_folder(output, "--output") as folder:
        log.info("%s", command)
        with Bars() as progress:
            store = _extract(config, progress)
            results = iceprobe.segment(
                store,
                config.probe,
                part_of(config, settings.Segmentation),
                output=folder,
                progress=progress,
                on_estimate=partial(print_duration, config),
                command=command,
            )
        run_log.write_to(folder / "log.txt")
        (folder / "config.yaml").write_text(to_yaml(config))
        iceprobe.report(results, folder / "report.html")
    return results


def _show(results: Sequence[Segmentation], folder: RunFolder) -> None:
    from iceprobe.reporting.segment_page import headline

    console.print(_table(results))
    if any(one.undertrained for one in results):
        said = headline(results)
        say(f"{said.sentence} {said.detail}")
    _tell_differences(results)
    for file in (folder.path / PICTURE_NAME, folder.report):
        say(file.resolve())


def _identities(config: SegmentRun) -> set[str]:
    """Identities of the stores that would be read now."""
    shared = ["limit", "forward_dtype", "tokens", "forward_batch_size", "device", "output"]
    same = {name: getattr(config, name) for name in shared}
    run = Run(backbone=[config.backbone], data=[config.data], probe=["ep1"], **same)
    sources = Sources(run)
    found = sources.identities(sources.single_layers())
    sources.keep()
    return found


def _extract(config: SegmentRun, progress: Bars) -> "Store":
    """Extract the tokens, if the images have masks and the tokens have a grid."""
    from iceprobe.fitting.segmentation import no_grid, no_masks

    dataset = iceprobe.load_dataset(config.data)
    if not all(split.masks for split in dataset.splits.values()):
        raise IceprobeError(no_masks(config.data))
    backbone = iceprobe.load_backbone(config.backbone)
    if backbone.grid is None:
        raise IceprobeError(no_grid(config.backbone))
    extraction = part_of(config, Extraction)
    store = iceprobe.extract(backbone, dataset, config.features, extraction, progress=progress)
    backbone.to("cpu")
    return store


def _table(results: Sequence[Segmentation]) -> TerminalTable:
    from iceprobe.results.tables import percent, short, span

    one = results[0]
    return table_of(
        sorted(results, key=lambda result: -result.miou.mean),
        [
            (Column("probe", numeric=False), lambda one: one.probe),
            (Column("mIoU %"), lambda one: percent(one.miou)),
            (Column("95% interval"), lambda one: span(one.miou.interval)),
            (Column("object IoU %", goes=3), lambda one: percent(one.object_iou)),
            (Column("parameters", goes=2), lambda one: short(one.parameters)),
            (Column("FLOPs", goes=1), lambda one: short(one.flops.per_image)),
        ],
        f"{one.backbone} on {one.dataset}, {len(one.class_names)} classes",
    )


def _tell_differences(results: Sequence[Segmentation]) -> None:
    from iceprobe.results.tables import signed_points, span, tenths

    for one in results:
        if one.beside is not None:
            points, ends = signed_points(one.beside.mean), span(one.beside.interval, signed=True)
            say(
                f"{one.probe} − {one.beside.probe}: {points} points of mIoU, 95% interval {ends} "
                "(paired over images)"
            )
    say(f"all background: {tenths(results[0].all_background)}% mIoU")
