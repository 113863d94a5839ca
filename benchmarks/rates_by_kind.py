"""Test accuracy of every kind of probe by learning rate: where its default grid should lie (docs/selection.md).

    python benchmarks/rates_by_kind.py --output build/rates.json

1,000 training images, 400 steps of 256 images as `heldout` takes them, one seed, patches averaged 2 × 2. A kind
starts at three rates and goes on at the side of the better end until the best rate has a worse one on either side.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from selection_study import Case, train
from study_cases import tokens

from iceprobe.fitting.members import Member

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CLUTTER, FASHION, FEW = (
    Case("clutter", "dino-tiny", images=1000),
    Case("fashion", "mae-tiny", images=1000),
    Case("clutter", "mae-tiny", shots=20),
)
HIGH, MIDDLE, LOW = RATES[4:8], RATES[3:7], RATES[2:6]  # tried first
TABLE = (
    (CLUTTER, MIDDLE, ("ep12",)),
    (FASHION, MIDDLE, ("ep12", "aim12")),
    (FASHION, LOW, ("cait4",)),
    (CLUTTER, LOW, ("coca8",)),
    (replace(FEW, steps=200), MIDDLE, ("ep12",)),
    (FEW, MIDDLE, ("ep12",)),
    (replace(FEW, steps=800), MIDDLE, ("ep12",)),
    (replace(CLUTTER, steps=200), MIDDLE, ("ep12",)),
    (replace(CLUTTER, steps=800), MIDDLE, ("ep12",)),
    (CLUTTER, LOW, ("clip4", "cae8", "block8")),
    (CLUTTER, MIDDLE, ("delf", "capi", "ep32", "ep12?value=identity", "ep12?query=sliced")),
    (CLUTTER, MIDDLE, ("mhca12", "aim12", "abmilp?depth=1", "abmilp", "simpool", "mean_value", "cbam")),
    (CLUTTER, LOW, ("siglip8", "vjepa16", "cait4", "slot8", "abmilp?self_attention=true")),
    (FASHION, LOW, ("vjepa16", "siglip8")),
    (FASHION, MIDDLE, ("mhca12", "abmilp")),
)  # fmt: skip


def by_rate(case: Case, probe: str, first: tuple[float, ...], root: Path) -> dict[float, float]:
    """Rate → test accuracy in % at the schedule's end."""
    data = tokens(case.data, case.backbone, root)
    rows, seen = case.rows(data.train.labels, 0), np.arange(min(1500, len(data.test)))
    found: dict[float, float] = {}
    wanted = list(first)
    while wanted:
        members = [Member(probe, rate, 0.0, 0) for rate in wanted]
        right = train(members, data, rows, data.test, seen, case.steps, 0, 1)[probe].right
        found |= zip(wanted, (100 * right[:, -1].mean(-1)).round(1).tolist(), strict=True)
        place = RATES.index(max(found, key=lambda rate: found[rate]))
        beside = RATES[max(0, place - 1) : place + 2]
        wanted = [rate for rate in beside if rate not in found]
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features"))
    parser.add_argument("--output", type=Path, default=Path("build/rates.json"))
    options = parser.parse_args()
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for case, first, probes in TABLE:
        mine = found.setdefault(case.name, {})
        for probe in probes:
            if probe not in mine:
                began = time.process_time()
                mine[probe] = {
                    f"{r:g}": a for r, a in by_rate(case, probe, first, options.features).items()
                }
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(found, indent=1))
                seconds = time.process_time() - began
                print(f"{case.name:36} {probe:26} {seconds:5.0f} s  {mine[probe]}", flush=True)


if __name__ == "__main__":
    main()
