"""The fitted probes of a result: from memory, or from the files that a fit left in its run folder."""

from safetensors import SafetensorError
from safetensors.torch import load_file

from iceprobe.core.checksums import check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.probes.probe import Probe, build_for
from iceprobe.results.fitted import FittedResult
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import TokenShape

OPTIMA = ("lbfgs", "closed form")  # how probes are solved for


def load_fitted(result: FittedResult, shape: TokenShape, seed: int | None = None) -> Probe:
    """The fitted probe of a result, in evaluation mode, with one of its seeds or the first.

    ``shape`` is of the tokens it was fitted on.

    Raises:
        IceprobeError: for an unknown seed, if no weights were kept, or if their file is missing or
            doesn't fit.
    """
    parts = result.training.get("parts", 1)
    if shape.parts != parts:
        raise IceprobeError(
            f"{result.probe} was fitted on examples of {parts} parts each (parts=), and these tokens have "
            f"{shape.parts}: give those of as many"
        )
    if result.training.get("optimizer") in OPTIMA and len(result.seeds) == 1:
        seed = None  # an optimum is the same for every seed
    if seed is not None and seed not in result.seeds:
        raise IceprobeError(
            f"{result.probe} was not fitted with seed {seed}: "
            f"take one of {', '.join(map(str, result.seeds))}"
        )
    place = 0 if seed is None else result.seeds.index(seed)
    if result.probes:
        return result.probes[place].eval()
    if result.run is None or not result.files.probes:
        raise IceprobeError(f"no fitted weights of {result.probe!r} were kept")
    name = result.files.probes[place]
    path = result.run / name
    probe = build_for(shape, result.probe, result.classes, task=get_task(result.task))
    try:
        remedy = "put it back as it was, or fit the run again into another folder"
        check_file(path, result.files.digests.get(name), remedy)
        probe.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise IceprobeError(f"fitted probe {path} is missing: fit the run again") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise IceprobeError(
            f"fitted probe {path} doesn't fit {result.probe!r} ({first}): fit the run again"
        ) from error
    return probe.eval()
