"""``iceprobe demo``: the main job on what ships with the package, without a network."""

from iceprobe.cli.config import resolve
from iceprobe.cli.run import execute
from iceprobe.cli.signature import Given, Resume, options
from iceprobe.settings import Run

# k-NN and both linear probes, EP and AIM, and what EP is without its parts; a third of the training
# images and fewer epochs than the protocol's own, so that two cores are done in four minutes.
PROBES = [
    "knn",
    "linear?input=class",
    "linear?input=mean",
    "ep12",
    "ep12?value=identity",
    "aim12",
]
LIMIT, BATCH_SIZE, EPOCHS = 2000, 64, 12  # some 340 steps
SEEDS = 3  # replicates, the default where probes are compared, take a fit each


@options(Run, only=("output", "features", "device"))
def demo(given: Given, resume: Resume = True) -> None:
    """Probe the bundled backbone on the bundled images and write a report; needs no network.

    The backbone is a small masked autoencoder, the images are Fashion-MNIST items among
    distracting pieces of others. Takes a few minutes on two cores.

    \b
    Examples:
      iceprobe demo
      iceprobe demo --output runs/again
    """
    values = {
        "backbone": "bundled:mae-tiny",
        "data": "bundled:fashion-clutter",
        "probe": PROBES,
        "limit": LIMIT,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "seeds": SEEDS,
        "output": "runs/demo",
    }
    execute(resolve(Run, {**values, **given}), resume)
