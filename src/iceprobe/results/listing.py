"""A list of results that a notebook shows as their table."""

from typing import Any, TypeVar

from iceprobe.results.schema import Result

R = TypeVar("R", bound=Result)


class Results(list[R]):
    """An ordinary list; a notebook shows the table of its results."""

    def _repr_html_(self) -> str:
        from iceprobe.results.tables import to_html  # with numpy, which a listing has no need of

        return to_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As text, where a notebook shows no HTML, and in the file that it is saved to: the same table."""
        from iceprobe.results.tables import to_markdown

        printer.text(to_markdown(self))
