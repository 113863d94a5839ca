"""``iceprobe segment``: dense probes on patch tokens, where the images have masks or depth maps."""

import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import iceprobe
from iceprobe import settings
from iceprobe.cli.arguments import resolve_arguments
from iceprobe.cli.config import to_yaml
from iceprobe.cli.console import Bars, at_work, console, note, say
from iceprobe.cli.dense_table import said_below, table
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.cli.paths import check_features
from iceprobe.cli.signature import Arguments, Given, options
from iceprobe.cli.sources import Sources
from iceprobe.cli.stages import (
    check_features_of,
    complete_log,
    print_duration,
    session_of,
    tell_complete,
)
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.loggers import parse_logger
from iceprobe.machine.temporary import new_folder
from iceprobe.results.dense import Dense
from iceprobe.results.segmentation_files import PICTURE_NAME, read_segmentations
from iceprobe.settings import Extraction, Run, SegmentRun

if TYPE_CHECKING:
    from iceprobe.store import Store

log = logging.getLogger("iceprobe")


@options(SegmentRun)
def segment(given: Given, arguments: Arguments = None) -> None:
    """Fit dense probes on patch tokens: which class does every pixel belong to, or which number has it?

    Of data sets with masks: pixels on an image's mask have its class, the others are background. Of data
    sets with depth maps: every known pixel has a number. Learning rate and epoch are selected on a tenth
    of train, by mean IoU or by RMSE, the probes are fitted again on all of it, the test split is read
    once. Ends with a table, dense.json, dense.csv, segmentation.png and report.html in the run folder.
    Detection is out of scope.

    \b
    Examples:
      iceprobe segment --backbone bundled:mae-tiny --data bundled:fashion-clutter
      iceprobe segment --backbone bundled:mae-tiny --data bundled:fashion-scenes?target=distance
      iceprobe segment --backbone timm:A --data pets?root=/data --probe linear --probe ep16
      iceprobe segment --backbone timm:A --data "table:rooms.csv?depth=depth_file&unit=m"
      iceprobe segment config.yaml seeds=5 output=runs/five-seeds
    """
    execute(resolve_arguments(SegmentRun, given, arguments))


def execute(config: SegmentRun) -> None:
    """Extract what isn't stored yet, fit, write the run folder, show the table.

    A finished run is shown, not run again.
    """
    from iceprobe.dense.api import check_probes

    check_probes(config.probe)
    for text in config.log:
        parse_logger(text)
    folder = RunFolder(config)
    if folder.state == "finished":
        results = read_segmentations(folder.path)
        check_features_of(results, folder, _identities(config))
        if not folder.report.exists():  # of an earlier iceprobe
            iceprobe.report(results, folder.report)
        complete_log(folder, results)
        tell_complete(folder)
    else:
        results = _run(config, folder)
    _show(results, folder)


def _run(config: SegmentRun, run: RunFolder) -> list[Dense]:
    check_features(config.features, "--features")
    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log, session_of(run) as session:
        with new_folder(run.path, "--output") as folder:
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
                    log=session,
                )
            run_log.write_to(folder / "log.txt")
            (folder / "config.yaml").write_text(to_yaml(config))
            with at_work("report"):
                iceprobe.report(results, folder / "report.html")
        session.report(run.report)
        places = session.places
    for place in places:
        say(f"logged to {place}")
    return results


def _show(results: Sequence[Dense], folder: RunFolder) -> None:
    from iceprobe.reporting.segment_page import headline

    console.print(table(results))
    if any(one.undertrained for one in results):
        said = headline(results)
        note(f"{said.sentence} {said.detail}")
    for line in said_below(results):
        note(line)
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
    """Extract the tokens, if the pixels have targets and the tokens have a grid."""
    from iceprobe.dense.api import no_grid, no_masks, several
    from iceprobe.tasks import get_task

    dataset = iceprobe.load_dataset(config.data)
    if not all(split.masks or split.depths for split in dataset.splits.values()):
        raise IceprobeError(no_masks(config.data))
    if (task := get_task(dataset.task)).several:
        raise IceprobeError(several(config.data, task.outputs))
    if config.split not in dataset.splits:
        raise IceprobeError(
            f"{config.data} has no split {config.split!r} (it has {', '.join(dataset.splits)}), and "
            "iceprobe segment has no folds: name another --split, or let the data draw one, "
            "test_fraction=0.2"
        )
    backbone = iceprobe.load_backbone(config.backbone)
    if backbone.grid is None:
        raise IceprobeError(no_grid(config.backbone))
    extraction = part_of(config, Extraction)
    store = iceprobe.extract(backbone, dataset, config.features, extraction, progress=progress)
    backbone.to("cpu")
    return store
