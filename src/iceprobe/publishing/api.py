"""Results → a publication → the place where others read it."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.specs import Spec, parse_spec
from iceprobe.publishing.publication import Publication
from iceprobe.publishing.registry import DESTINATIONS
from iceprobe.results.files import read_results
from iceprobe.results.fitted import FittedResult
from iceprobe.settings import PublishCall


@takes(PublishCall)
def publish(run: Sequence[FittedResult] | str | Path, to: str, *, call: PublishCall) -> Publication:
    """Publish a run where others read it.

    Args:
        run: a run folder, or its results.
        to: ``"hub:OWNER/NAME"``, a model repository of the Hugging Face Hub; ``"ep"`` or ``"ep:results.csv"``, a
            row of the authors' table.
        settings: an :class:`iceprobe.settings.Publishing`, its options as keywords, or both.

    Returns:
        What was published, or with ``dry_run`` would be.

    Raises:
        IceprobeError: for a destination that there isn't, a run that it has no place for, or what the destination
            refuses; nothing is sent then.
    """
    results = read_results(run) if isinstance(run, str | Path) else run
    if not results:
        raise IceprobeError("publish: there are no results: name the folder of a finished run")
    spec = parse_spec(to)
    if spec.kind is None:
        spec = Spec(spec.name, "", spec.options)  # "ep", which needs no name
    folder = Path(tempfile.mkdtemp(prefix="iceprobe-"))
    try:
        made: Publication = DESTINATIONS[spec.kind or ""].load()(spec, results, call, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Large files are sent from there: it stays as long as they may be asked for.
    weakref.finalize(made.files, shutil.rmtree, folder, ignore_errors=True)
    if not call.dry_run:
        if made.missing:
            raise IceprobeError(made.missing)
        made.send()
    return made
