"""What the arrays of a file are, by their names: `ROLES` is the table of them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.feature_files.arrays import Form, listing

#: Names of arrays by what they are, in any case; behind a group's name in HDF5, ``slide_1/features``.
ROLES: Mapping[str, tuple[str, ...]] = {
    "features": (
        "features", "feature", "feats", "feat", "embeddings", "embedding", "embeds", "emb", "tokens",
        "patch_tokens", "patches", "x",
    ),
    "prefix": ("prefix", "prefix_tokens", "class_token", "cls_token", "cls"),
    "pooled": ("pooled", "pooled_output"),
    "coords": ("coords", "coord", "coordinates", "positions", "xy"),
    "grid": ("grid",),
    "offsets": ("offsets", "indptr"),
    "lengths": ("lengths", "num_tokens", "bag_sizes"),
}  # fmt: skip
#: Names of arrays and columns of targets, of groups, and of the examples' own names.
TARGETS = ("target", "targets", "label", "labels", "class", "y")
GROUPS = ("group", "groups", "patient", "case_id", "patient_id")
NAMES = (
    "slide_id", "slide", "name", "names", "id", "ids", "file", "filename", "file_name", "wsi", "image",
    "image_id", "key", "keys",
)  # fmt: skip


def last(key: str) -> str:
    """``features`` of ``slide_1/features``, as it is compared with `ROLES`."""
    return key.rsplit("/", 1)[-1].casefold()


def roles_of(place: Path, forms: Mapping[str, Form], key: str | None) -> dict[str, str]:
    """The array of each role that is there.

    Args:
        place: the file, for errors.
        forms: of its arrays.
        key: name of the tokens, as the user says it.

    Raises:
        IceprobeError: if none or several may be the tokens, with the choices.
    """
    found = {}
    for role, names in ROLES.items():
        alike = [one for one in forms if last(one) in names]
        if role == "features":
            found[role] = _features(place, forms, alike, key)
        elif alike:
            found[role] = alike[0]
    return found


def _features(place: Path, forms: Mapping[str, Form], alike: Sequence[str], key: str | None) -> str:
    if key is not None:
        if key not in forms:
            raise IceprobeError(unknown(f"array of {place.name}", key, forms))
        return key
    if len(forms) == 1 and last(only := next(iter(forms))) not in TARGETS:  # .npy, and the like
        return only
    others = {name for role in ROLES for name in ROLES[role] if role != "features"}
    free = [
        name
        for name, form in forms.items()
        if form.floating and len(form.shape) > 1 and last(name) not in (*others, *TARGETS)
    ]
    chosen = list(alike) or free
    if len(chosen) == 1:
        return chosen[0]
    may = f"{listing({one: forms[one] for one in chosen})} may all be" if chosen else "none may be"
    raise IceprobeError(
        f"{str(place)!r}: of its arrays {may} the tokens: pass key=NAME (there are {listing(forms)})"
    )


def one_called(names: Collection[str], columns: Sequence[str]) -> list[str]:
    """The columns that are called by one of ``names``."""
    return [column for column in columns if last(column) in names]
