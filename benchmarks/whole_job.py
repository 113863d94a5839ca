"""A whole job: extraction and one fit, against the backbone in every epoch of every run.

    python benchmarks/whole_job.py [--rounds 5]

Eight probes × 5 learning rates = 40 settings, 30 epochs, `bundled:mae-tiny` on the 8,000 images of
`bundled:fashion-clutter`: 6,000 to learn from and 2,000 to report on.

    iceprobe    extract + fit: measured whole, with selection on held-out images, refit and report
    one by one  Σ_settings [30 · 6,000 · (forward + own step) + 2,000 · forward]
    one live    30 · 6,000 · forward + 2,000 · forward + the fit as measured

`forward` (images ready, in memory) and each probe's own step (its pool-first module and torch's
AdamW on tokens that are ready) are measured on a few hundred images and scaled; refit and selection
aren't counted on that side. Where the fit would take longer than `PATIENCE` it runs fewer epochs
and is scaled as well; the details say how many it ran. ViT-B/16 is computed: `forward` and steps
measured the same way with random weights, extraction as one forward of the images, the fit by
`iceprobe.plan_fit`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from measuring import Figure, Times, interleaved, run_alone, timed
from torch.nn import functional as F

import iceprobe
from iceprobe.backbones import Backbone
from iceprobe.cost import FitPlan
from iceprobe.probes import build
from iceprobe.tokens import Tokens

PROBES = (
    "linear?input=class", "linear?input=mean", "ep8", "ep32", "aim12", "mhca12", "abmilp", "simpool",
)  # fmt: skip
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
EPOCHS, BATCH = 30, 256
TRAIN, TEST, CLASSES = 6_000, 2_000, 10
PATIENCE = 480.0  # seconds of the fit
ROUNDS = 5
CPU = torch.device("cpu")


def one_by_one(forward: float, steps: dict[str, float]) -> float:
    """Seconds of every setting by itself; ``forward`` and ``steps`` in seconds an image."""
    runs = [EPOCHS * TRAIN * (forward + step) + TEST * forward for step in steps.values()]
    return len(RATES) * sum(runs)


def one_live(forward: float, fit: float) -> float:
    """Seconds of one pass that all members share, with the backbone in every epoch."""
    return (EPOCHS * TRAIN + TEST) * forward + fit


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    rounds = rounds or ROUNDS
    return [*tiny(rounds), *base(rounds)]


def tiny(rounds: int) -> list[Figure]:
    """`bundled:mae-tiny`, extraction and fit as they are."""
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    dataset = iceprobe.load_dataset("bundled:fashion-clutter")
    times = parts(backbone, BATCH, rounds)
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
        root = Path(folder)
        extraction = timed(lambda: iceprobe.extract(backbone, dataset, root, limit=TRAIN), CPU)
        store = iceprobe.extract(backbone, dataset, root, limit=TRAIN)
        planned = plan(backbone, dataset).seconds
        epochs = EPOCHS if planned <= PATIENCE else max(2, int(EPOCHS * PATIENCE / planned))

        def fit() -> None:
            iceprobe.fit(
                store, PROBES, seeds=1, epochs=epochs, learning_rates=RATES, batch_size=BATCH,
                output=root / "run",
            )  # fmt: skip

        fitting = timed(fit, CPU) * EPOCHS / epochs
    ran = f"{epochs} of {EPOCHS} epochs run"
    return figures("mae-tiny", times, BATCH, extraction, fitting, ran)


def base(rounds: int) -> list[Figure]:
    """ViT-B/16 with random weights, computed."""
    model = timm.create_model("vit_base_patch16_224", pretrained=False)
    backbone = iceprobe.load_backbone(model)
    dataset = iceprobe.load_dataset("bundled:fashion-clutter")
    times = parts(backbone, 16, min(rounds, 3))
    extraction = (TRAIN + TEST) * times.median("forward") / 16
    fitting = plan(backbone, dataset).seconds
    return figures("ViT-B/16, computed", times, 16, extraction, fitting, "planned")


def plan(backbone: Backbone, dataset: iceprobe.Dataset) -> FitPlan:
    return iceprobe.plan_fit(
        backbone, dataset, PROBES, seeds=1, epochs=EPOCHS, learning_rates=RATES, batch_size=BATCH,
        limit=TRAIN,
    )  # fmt: skip


def parts(backbone: Backbone, images: int, rounds: int) -> Times:
    """Rounds of ``forward`` and of each probe's own step, on so many images."""
    preprocessing = backbone.preprocessing
    side = preprocessing.image_size
    pixels = torch.randn(images, preprocessing.channels, side, side)
    with torch.no_grad():
        tokens = backbone(pixels)

    def forward() -> None:
        with torch.no_grad():
            backbone(pixels)

    steps = {probe: own_step(probe, tokens, backbone) for probe in PROBES}
    return interleaved({"forward": forward, **steps}, rounds, CPU)


def own_step(name: str, tokens: Tokens, backbone: Backbone) -> Callable[[], None]:
    """A step of one probe by itself."""
    probe = build(name, backbone.dim, CLASSES, backbone.grid, has_class=backbone.has_class)
    optimizer = torch.optim.AdamW(probe.parameters(), fused=True)
    labels = torch.randint(CLASSES, (len(tokens.patches),))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(probe(tokens), labels).backward()
        optimizer.step()

    return step


def figures(
    name: str, times: Times, images: int, extraction: float, fitting: float, how: str
) -> list[Figure]:
    """Both comparisons; the spread is that of ``forward`` over its rounds."""
    forward = times.median("forward") / images
    steps = {probe: times.median(probe) / images for probe in PROBES}
    ours = extraction + fitting
    once = (TRAIN + TEST) * forward
    rounds = sorted(seconds / images for seconds in times.seconds["forward"])
    slow, live = one_by_one(forward, steps), one_live(forward, fitting)
    details: dict[str, float | str] = {
        "forward, images/s": 1 / forward,
        "extraction s": extraction,
        "fit s": fitting,
        "how the fit was taken": how,
        "one by one, hours": slow / 3600,
        "its backbone's share": len(PROBES) * len(RATES) * (EPOCHS * TRAIN + TEST) * forward / slow,
        "one live pass s": live,
    }
    return [
        Figure(
            name=f"whole job, {name}",
            what="one by one, backbone in every epoch / extraction + one fit",
            device="cpu",
            value=slow / ours,
            spread=tuple(one_by_one(f, steps) / ours for f in (rounds[0], rounds[-1])),
            at_least=25,
            aim=50,
            bound=slow / once,
            bounded_by="one forward of the images",
            details=details,
        ),
        Figure(
            name=f"one live pass, {name}",
            what="one live pass for all members / extraction + one fit",
            device="cpu",
            value=live / ours,
            spread=tuple(one_live(f, fitting) / ours for f in (rounds[0], rounds[-1])),
            bound=live / once,
            bounded_by="one forward of the images",
        ),
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
