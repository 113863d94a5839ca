"""For pathology: slides as bags of tile features in HDF5, several a patient, probed by attention and by the mean.

    python examples/pathology.py                                   # on made-up slides; half a minute
    python examples/pathology.py "features:FOLDER?table=labels.csv&target=label&group=patient"      # on yours

FOLDER has a file a slide, `features` (tiles, D) and `coords` (tiles, 2), as CLAM and TRIDENT write them; the table
`slide_id,patient,label,split`. Patients are the groups: none is in train and test, and intervals are over them.
"""

import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

import iceprobe


def make_up(folder: Path) -> str:
    """80 patients of two slides; a tumour shows in 3% of a slide's tiles, and each patient stains in an own way."""
    rng = np.random.default_rng(0)
    tumour = rng.normal(size=64)
    rows = ["slide_id,patient,label,split"]
    for patient in range(80):
        label, split = ["normal", "tumour"][patient % 2], "train" if patient < 56 else "test"
        stain = rng.normal(size=64)
        for slide in (f"slide_{patient}a", f"slide_{patient}b"):
            count = int(rng.integers(60, 240))
            places = np.stack(np.divmod(np.arange(count), 16), 1)[:, ::-1] * 256
            tiles = 0.5 * stain + rng.normal(size=(count, 64))
            if label == "tumour":
                tiles[: max(2, count * 3 // 100)] += tumour
            with h5py.File(folder / f"{slide}.h5", "w") as file:
                file["features"], file["coords"] = tiles.astype(np.float32), places
            rows.append(f"{slide},{patient},{label},{split}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return f"features:{folder}?table={folder / 'labels.csv'}&target=label&group=patient"


def main(spec: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = iceprobe.load_features(spec or make_up(Path(folder)))
        probes = ["linear?input=mean", "abmilp?gated=true", "ep8"]
        results = iceprobe.fit(
            store, probes, seeds=1, epochs=10, learning_rates=[1e-2], batch_size=32,
            metric="auroc", progress=False,
        )  # fmt: skip
        for result in results:
            low, high = result.score.interval
            print(
                f"{result.probe:20} AUROC {result.score.mean:.2f}, {low:.2f} to {high:.2f} over patients"
            )


if __name__ == "__main__":
    main(*(sys.argv[1:] or [None]))
