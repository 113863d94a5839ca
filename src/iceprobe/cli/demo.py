"""``iceprobe demo``: the main job on what ships with the package, without a network."""

from iceprobe.cli import options
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.run import execute

# k-NN and both linear probes, EP with the two that it is compared with, and its ablations.
PROBES = [
    "knn",
    "linear?input=class",
    "linear?input=mean",
    "mean_value",
    "abmilp",
    "aim12",
    "ep12",
    "ep12?value=identity",
    "ep32",
]


def demo(
    output: options.Output = None,
    features: options.Features = None,
    device: options.Device = None,
    resume: options.Resume = True,
) -> None:
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
        "output": output or "runs/demo",
        "features": features,
        "device": device,
    }
    execute(resolve(RunConfig, values), resume)
