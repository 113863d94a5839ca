"""The fitted probes of a result: from memory, or from the files that a fit left in its run folder."""

from safetensors import SafetensorError
from safetensors.torch import load_file

from iceprobe.core.checksums import check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.members import Shape
from iceprobe.probes.probe import Probe
from iceprobe.results.fitted import FittedResult


def load_fitted(result: FittedResult, shape: Shape, seed: int | None = None) -> Probe:
    """One fitted probe of a result, in evaluation mode.

    Args:
        result: of a trained probe.
        shape: of the tokens it was fitted on.
        seed: one of the result's; the first by default.

    Raises:
        IceprobeError: if there is no such seed, if no weights were kept, or if their file is
            missing or doesn't fit.
    """
    if result.training.get("optimizer") == "lbfgs" and len(result.seeds) == 1:
        seed = None  # at its optimum, the same for every seed
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
    probe = shape.build(result.probe)
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
