"""CIFAR-100 (Krizhevsky 2009) from its Python version, which consists of pickles.

The unpickler below allows NumPy arrays and nothing else, so a file can't run code.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.datasets.base import ArraySplit, Split

_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1, as in the published files
    ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # bytes in a pickle that Python 3 wrote for Python 2
}


def read_cifar100(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read the parts ``"train"`` or ``"test"``, with the 100 fine labels."""
    folder = root / "cifar-100-python"
    files = [_read(folder / part) for part in parts]
    # Rows of 3,072 bytes: the planes of red, green and blue, each by rows.
    planes = np.concatenate([file["data"] for file in files]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    labels = [label for file in files for label in file["fine_labels"]]
    files_of_images = (image for file in files for image in file["filenames"])
    names = [f"{name}/{row:05d}/{image}" for row, image in enumerate(files_of_images)]
    classes = _read(folder / "meta")["fine_label_names"]
    return ArraySplit(name, images, np.array(labels), names), classes


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        if name == "_reconstruct":  # where this NumPy has it
            return np.ndarray.__reduce__(np.empty(0))[0]
        return super().find_class(module, name)


def _read(path: Path) -> dict[str, Any]:
    """The dictionary in the file, else ``ValueError``."""
    with path.open("rb") as file:
        try:
            content = _Unpickler(file, encoding="latin1").load()  # NumPy arrays of Python 2 need it
        except (pickle.UnpicklingError, AttributeError) as error:
            raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dictionary")
    return content
