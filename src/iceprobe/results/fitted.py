"""A result with its run folder, predictions, probes and store while the program runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from iceprobe.core.errors import IceprobeError
from iceprobe.results.schema import Result

if TYPE_CHECKING:
    from iceprobe.results.predictions import Predictions


class FittedResult(Result):
    """A :class:`Result` with what was made with it, as `fit` and `read_results` return it.

    The private parts aren't written. Only :meth:`replaced` changes them, in a copy.
    """

    _run: Path | None = PrivateAttr(None)
    _predictions: "Predictions | None" = PrivateAttr(None)
    _probes: list[Any] | None = PrivateAttr(None)
    _store: Any = PrivateAttr(None)

    @property
    def run(self) -> Path | None:
        """The run folder that this result was written to or read from."""
        return self._run

    @property
    def probes(self) -> list[Any] | None:
        """The fitted ``Probe`` modules, one a seed, while they are in memory."""
        return self._probes

    @property
    def open_store(self) -> Any:
        """The ``Store`` that was probed, while it is open; None for results read from a file."""
        return self._store

    def predictions(self) -> "Predictions | None":
        """Predictions on :attr:`split`, from memory or from the run folder; None if never kept.

        Raises:
            IceprobeError: if the file is named but missing or corrupt.
        """
        name = self.files.predictions
        if self._predictions is None and self._run is not None and name:
            # With numpy, which `ls` has no need of.
            from iceprobe.results.predictions import read_predictions

            digest = self.files.digests.get(name)
            self._predictions = read_predictions(self._run / name, self.label, digest)
        return self._predictions

    def needed_predictions(self) -> "Predictions":
        """:meth:`predictions`, where nothing can go on without them.

        Raises:
            IceprobeError: if they were never kept, or as there.
        """
        if (found := self.predictions()) is None:
            raise IceprobeError(f"no predictions of {self.label!r} were kept: fit it again")
        return found

    def _repr_html_(self) -> str:
        """Its row of the table, for a notebook."""
        from iceprobe.results.tables import to_html

        return to_html([self])

    def replaced(
        self,
        *,
        run: str | Path | None = None,
        predictions: "Predictions | None" = None,
        probes: Sequence[Any] | None = None,
        open_store: Any = None,
        **fields: Any,
    ) -> Self:
        """A copy with other values; what isn't given stays.

        Args:
            run: the run folder, to which :attr:`files` are relative.
            predictions: of the probe, for results that were never written.
            probes: the fitted ``Probe`` modules, one a seed.
            open_store: the ``Store`` that was probed.
            fields: of the record.
        """
        made = type(self)(**(dict(self) | fields))
        made._run = Path(run) if run is not None else self._run
        made._predictions = predictions if predictions is not None else self._predictions
        made._probes = list(probes) if probes is not None else self._probes
        made._store = open_store if open_store is not None else self._store
        return made
