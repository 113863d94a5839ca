"""The split that is reported isn't the one that probes are trained on."""

from iceprobe.core.errors import IceprobeError

TRAIN = "train"


def refuse_train(split: str, splits: list[str]) -> None:
    """Refuse to report the training split.

    Raises:
        IceprobeError: with those that may be reported.
    """
    if split == TRAIN:
        others = [name for name in splits if name != TRAIN]
        raise IceprobeError(
            f"split={split!r}: probes are trained on it, so a number on it says what they know by heart; "
            f"{_remedy(others)}"
        )


def _remedy(others: list[str]) -> str:
    if others:
        return f"give split={others[0]!r}" + "".join(f" or {name!r}" for name in others[1:])
    return "give the data set a split of other images, such as test"
