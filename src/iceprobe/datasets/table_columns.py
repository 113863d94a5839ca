"""The columns of a table by their use: named by options, or found by their names."""

import re
from dataclasses import dataclass

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.columns import AskedSplits, several
from iceprobe.datasets.table_files import ParquetTable, TableFile
from iceprobe.datasets.walking import is_image
from iceprobe.tasks.targets import some

# Names of columns of images and of targets, without case and other characters.
_IMAGES = re.compile(r"(image|img)s?((file)?name|file|path|id)?|file(name|path)?s?|path")
_TARGETS = ("target", "targets", "label", "labels", "class")


@dataclass(frozen=True)
class TableOptions(AskedSplits):
    """Options of ``table:``.

    Attributes:
        image, images, suffix: the column of images, the folder of their paths, what these lack.
        video, sound: the column of videos, or of recordings, in place of images.
        example: the column of bags: which images belong together (`bags.py`).
        x, y: the columns of where an image of a bag lies.
        delimiter: between cells of text.
        box, box_format, mask, masks: the columns of boxes and masks, and the masks' folder.
        depth, depths, depth_scale: the column of depth maps, which are the targets then, their folder, and
            what their numbers are multiplied by.
    """

    image: str | None = None
    video: str | None = None
    sound: str | None = None
    example: str | None = None
    x: str | None = None
    y: str | None = None
    images: str | None = None
    suffix: str = ""
    delimiter: str | None = None
    box: str | None = None
    box_format: str | None = None
    mask: str | None = None
    masks: str | None = None
    depth: str | None = None
    depths: str | None = None
    depth_scale: float | None = None

    @property
    def shown(self) -> str:
        """The option that names the column of images, videos or recordings."""
        return next((o for o in ("video", "sound") if getattr(self, o) is not None), "image")

    def check_example(self, spec: str) -> None:
        """Refuse options that don't go with ``video`` or ``sound``.

        Raises:
            IceprobeError: naming the first of them.
        """
        if (what := self.shown) == "image":
            return
        for option in ("image", "mask", "depth", "box", "sound"):
            if option != what and (given := getattr(self, option)) is not None:
                other = "another kind of example" if option == "sound" else "of images"
                raise IceprobeError(
                    f"option {option}={given} of {spec!r} beside {what}=: it is {other}, drop it"
                )

    def check_depth(self, spec: str) -> None:
        """Refuse options that don't go with ``depth``, or without it.

        Raises:
            IceprobeError: naming the first of them.
        """
        if self.depth is None:
            for option in ("depths", "depth_scale"):
                if (given := getattr(self, option)) is not None:
                    raise IceprobeError(f"option {option}={given} of {spec!r} is of depth=: add it")
            return
        for option in ("target", "separator", "task", "mask", "masks"):
            if (given := getattr(self, option)) is not None:
                raise IceprobeError(
                    f"option {option}={given} of {spec!r} beside depth=: the numbers of pixels are the "
                    f"targets, so drop {option}=, or depth="
                )


@dataclass(frozen=True)
class TableColumns:
    """The columns by their use; each of them is there.

    Attributes:
        target: empty where pixels have the targets.
        others: the columns of groups, folds, masks and depth maps.
    """

    image: str
    target: list[str]
    slices: list[str]
    box: list[str]
    others: list[str]
    split: str | None = None

    @classmethod
    def of(cls, asked: TableOptions, table: TableFile) -> "tuple[TableColumns, list[str]]":
        """The columns of a table, and a line for each that was found by its name.

        Raises:
            IceprobeError: for a name that the table hasn't, or if none or several may be meant.
        """

        def named(option: str, most: int | None = 1) -> list[str]:
            text = getattr(asked, option)
            found = [] if text is None else several(text, option, table.columns, table.place.name)
            if most is not None and len(found) > most:
                raise IceprobeError(
                    f"option {option}={text!r} names {len(found)} columns: name one"
                )
            return found

        others = [
            column
            for option in ("group", "fold", "mask", "depth", "example", "y", "x")
            for column in named(option)
        ]
        split, slices, box = named("split"), named("slice", None), named("box", None)
        if len(box) not in (0, 1, 4):
            raise IceprobeError(
                f"option box= names {len(box)} columns: give one with four numbers in a cell, or four"
            )
        taken = {*others, *split, *box}
        image, target, assumed = named(asked.shown), named("target", None), list[str]()
        if not target and asked.depth is None:
            target = [_target_column(table, taken)]
            assumed.append(
                f"{table.place.name}: the target is column {target[0]!r} (target= names another)"
            )
        if not image:
            image = [_image_column(table, {*taken, *target, *slices})]
            assumed.append(
                f"{table.place.name}: images are in column {image[0]!r} (image= names another)"
            )
        return cls(image[0], target, slices, box, others, *split), assumed

    @property
    def decided(self) -> list[str]:
        """All but the image."""
        split = [self.split] if self.split else []
        return list(dict.fromkeys([*self.target, *self.slices, *self.box, *self.others, *split]))

    def read_now(self, table: TableFile) -> list[str]:
        """The columns to read: all but images that are bytes, which are read one by one.

        Raises:
            IceprobeError: if the table, a second one, hasn't got one.
        """
        every = list(dict.fromkeys([self.image, *self.decided]))
        if missing := [column for column in every if column not in table.columns]:
            raise IceprobeError(unknown(f"column of {table.place.name}", missing[0], table.columns))
        return self.decided if holds_bytes(table, self.image) else every


def _target_column(table: TableFile, taken: set[str]) -> str:
    """The one column that is called as targets are."""
    alike = [c for c in table.columns if c.casefold() in _TARGETS and c not in taken]
    return _the_one(alike, table, "target", "the target")


def _image_column(table: TableFile, taken: set[str]) -> str:
    """The one column that is called as images are, or else the one that holds some."""
    free = [column for column in table.columns if column not in taken]
    alike = [c for c in free if _IMAGES.fullmatch(re.sub(r"[^a-z]", "", c.casefold()))]
    if len(alike) != 1:
        alike = [column for column in alike or free if _holds_images(table, column)] or alike
    return _the_one(alike, table, "image", "the images")


def _the_one(alike: list[str], table: TableFile, option: str, what: str) -> str:
    if len(alike) != 1:
        found = f"columns {some(alike)} may" if alike else "no column seems to"
        raise IceprobeError(
            f"{table.place.name}: {found} be {what}: pass {option}=COLUMN (there are "
            f"{', '.join(table.columns)})"
        )
    return alike[0]


def _holds_images(table: TableFile, column: str) -> bool:
    if holds_bytes(table, column):
        return True
    first = table.first(column)
    return isinstance(first, str) and is_image(first.rsplit("/", 1)[-1])


def holds_bytes(table: TableFile, column: str) -> bool:
    """Whether a column holds files in place of paths."""
    return isinstance(table, ParquetTable) and table.holds_bytes(column)
