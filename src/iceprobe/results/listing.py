"""A list of results that a notebook shows as their table."""

from typing import TypeVar

from iceprobe.results.schema import Result
from iceprobe.results.tables import to_html

R = TypeVar("R", bound=Result)


class Results(list[R]):
    """An ordinary list; a notebook shows the table of its results."""

    def _repr_html_(self) -> str:
        return to_html(self)
