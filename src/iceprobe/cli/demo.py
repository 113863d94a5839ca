"""``iceprobe demo``: the main job on what ships with the package, without a network."""

from iceprobe.cli import options
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.run import execute

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
        "limit": LIMIT,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "seeds": SEEDS,
        "output": output or "runs/demo",
        "features": features,
        "device": device,
    }
    execute(resolve(RunConfig, values), resume)
