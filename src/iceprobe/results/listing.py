"""A list of results that a notebook shows as their table."""

from typing import TypeVar

from iceprobe.results.schema import Result

R = TypeVar("R", bound=Result)


class Results(list[R]):
    """An ordinary list; a notebook shows the table of its results."""

    def _repr_html_(self) -> str:
        from iceprobe.results.tables import to_html  # with numpy, which a listing has no need of

        return to_html(self)
