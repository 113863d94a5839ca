"""``iceprobe demo``: the main job on what ships with the package, without a network."""

from iceprobe.cli import options
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.run import execute

# k-NN and both linear probes, EP and AIM, and what EP is without its parts; fewer learning rates
# and epochs than the protocol's own, so that two cores are done in four minutes.
PROBES = [
    "knn",
    "linear?input=class",
    "linear?input=mean",
    "ep12",
    "ep12?value=identity",
    "aim12",
]
LEARNING_RATES = [3e-3, 1e-2, 1e-1]
EPOCHS = 12


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
        "learning_rates": LEARNING_RATES,
        "epochs": EPOCHS,
        "output": output or "runs/demo",
        "features": features,
        "device": device,
    }
    execute(resolve(RunConfig, values), resume)
