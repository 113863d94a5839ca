"""``iceprobe demo``: a run on the bundled backbone and images, without a network."""

from iceprobe.cli.config import resolve
from iceprobe.cli.run import execute
from iceprobe.cli.signature import Given, Resume, options
from iceprobe.settings import Run

PROBES = [
    "knn", "linear?input=class", "linear?input=mean", "ep12", "ep12?value=identity", "aim12",
]  # fmt: skip
# A third of the training images and fewer epochs than the protocol's, some 340 steps, so that two
# cores need four minutes. Seeds rather than replicates, each of which would be a fit of its own.
DEMO = {
    "backbone": "bundled:mae-tiny",
    "data": "bundled:fashion-clutter",
    "probe": PROBES,
    "limit": 2000,
    "batch_size": 64,
    "epochs": 12,
    "seeds": 3,
    "output": "runs/demo",
}


@options(Run, only=("output", "features", "device", "log"))
def demo(given: Given, resume: Resume = True) -> None:
    """Probe the bundled backbone on the bundled images and write a report; needs no network.

    The backbone is a small masked autoencoder, the images are Fashion-MNIST items among
    distracting pieces of others. Takes a few minutes on two cores.

    \b
    Examples:
      iceprobe demo
      iceprobe demo --output runs/again
    """
    execute(resolve(Run, {**DEMO, **given}), resume)
