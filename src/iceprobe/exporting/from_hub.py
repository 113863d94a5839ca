"""``hub:OWNER/NAME[@REVISION]``: an exported folder in a model repository of the Hugging Face Hub.

Only its files are fetched, into the Hub's own cache, by the caller's word; what they name is trusted no more than
in a folder on disk.
"""

import sys
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.exporting.card import BACKBONE, CARD, ONNX, PROBE

_KIND = "hub:"


def on_hub(place: str | Path) -> bool:
    """Whether it is the spec of a repository."""
    return str(place).startswith(_KIND)


def cache_of(folder: Path) -> Path:
    """What the Hub's cache has of the repository of ``REPOSITORY/snapshots/REVISION``: its links lead to ``blobs``."""
    return folder.parents[1]


def refusals() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the Hub refuses or doesn't answer, whichever library it asks with."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    libraries = (sys.modules.get(name) for name in ("httpx", "httpx2", "requests"))
    network = [
        getattr(one, name)
        for one in libraries
        for name in ("HTTPError", "RequestException")
        if hasattr(one, name)
    ]
    return (HfHubHTTPError, LocalEntryNotFoundError, OSError, *network)


def downloaded(spec: str) -> tuple[Path, str]:
    """The folder of a repository's exported probe, and the spec of the commit that it is of.

    Without a network it is what was fetched before.

    Raises:
        IceprobeError: without huggingface_hub, or if the repository isn't there, is private, or doesn't answer.
    """
    hub = require("huggingface_hub", "hub", spec)
    from huggingface_hub.errors import HFValidationError

    repo, _, revision = spec.removeprefix(_KIND).partition("@")
    try:
        found = hub.snapshot_download(
            repo, revision=revision or None, allow_patterns=[CARD, PROBE, BACKBONE, ONNX]
        )
    except HFValidationError as error:
        raise IceprobeError(
            f"{spec!r}: write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION"
        ) from error
    except refusals() as error:
        raise IceprobeError(
            f"{spec}: the Hub has no such repository or revision, doesn't show it to you, or didn't answer: check the "
            "name, `hf auth whoami`, and the network"
        ) from error
    folder = Path(found)  # REPOSITORY/snapshots/COMMIT
    return folder, f"{_KIND}{repo}@{folder.name}"
