# mypy: disable-error-code="empty-body"
"""Signatures for editors and type checkers of the public functions that take a model of options.

Only type checkers import this: at run time :func:`iceprobe.core.options.takes` makes the same signatures.
Options come from the models, so a new option needs no line here.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

from torch import nn

from iceprobe.analysis.schema import Analysis as ProbeAnalysis
from iceprobe.backbones import Backbone
from iceprobe.cost import FitPlan, Plan
from iceprobe.datasets.base import Data
from iceprobe.measures.schema import Measured
from iceprobe.results import Result
from iceprobe.results.dense import Dense
from iceprobe.settings import (
    Adaptation,
    AdaptCall,
    Analysis,
    AnalyzeCall,
    ExtractCall,
    Extraction,
    ExtractPlan,
    FitCall,
    FitPlanning,
    Fitting,
    GivenTokens,
    Live,
    MeasureCall,
    Measuring,
    OtherSet,
    OtherSetCall,
    Segmentation,
    SegmentCall,
)
from iceprobe.store import Store
from iceprobe.tokens import TokenShape

P = ParamSpec("P")
R = TypeVar("R")
Model: TypeAlias = Backbone | nn.Module | str
Place: TypeAlias = str | Path


class _Function(Generic[P]):
    """A function with the options of ``model`` as keyword arguments."""

    def __init__(self, model: Callable[P, Any]) -> None: ...


class Fit(_Function[P]):
    def __call__(
        self, store: Store | Place | Sequence[Store], probes: Sequence[str],
        settings: Fitting | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Result]: ...  # fmt: skip


class Extract(Generic[P, R]):
    def __init__(self, model: Callable[P, Any], made: type[R]) -> None: ...

    def __call__(
        self, backbone: Model, dataset: Data, features: Place = ..., settings: Extraction | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> R: ...  # fmt: skip


class FromTokens(_Function[P]):
    def __call__(
        self, splits: Mapping[str, tuple[Any, Any]], settings: GivenTokens | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> Store: ...  # fmt: skip


class MakeLive(_Function[P]):
    def __call__(
        self, backbone: Model, dataset: Data, settings: Live | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> Store: ...  # fmt: skip


class PlanExtraction(_Function[P]):
    def __call__(
        self, backbone: Backbone, dataset: Data | int, features: Place | None = ...,
        settings: Extraction | None = None, *args: P.args, **options: P.kwargs,
    ) -> Plan: ...  # fmt: skip


class PlanFit(_Function[P]):
    def __call__(
        self, backbone: Backbone | TokenShape, dataset: Data | int, probes: Sequence[str],
        settings: Fitting | None = None, *args: P.args, **options: P.kwargs,
    ) -> FitPlan: ...  # fmt: skip


class Adapt(_Function[P]):
    def __call__(
        self, backbone: Backbone | str, dataset: Data, adaptations: Sequence[str] = ...,
        probes: Sequence[str] = ..., settings: Adaptation | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Result]: ...  # fmt: skip


class Segment(_Function[P]):
    def __call__(
        self, store: Store, probes: Sequence[str] = ..., settings: Segmentation | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Dense]: ...  # fmt: skip


class Analyze(_Function[P]):
    def __call__(
        self, results: Sequence[Result], settings: Analysis | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[ProbeAnalysis]: ...  # fmt: skip


class MeasureStores(_Function[P]):
    def __call__(
        self, stores: Store | Place | Sequence[Store | Place], settings: Measuring | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Measured]: ...  # fmt: skip


class ReadOther(_Function[P]):
    def __call__(
        self, run: Sequence[Result] | Place, dataset: Data | Store | Path,
        settings: OtherSet | None = None, *args: P.args, **options: P.kwargs,
    ) -> list[Result]: ...  # fmt: skip


fit = Fit(FitCall)
extract = Extract(ExtractCall, Store)
extract_layers = Extract(ExtractCall, list[Store])
from_tokens = FromTokens(GivenTokens)
live = MakeLive(Live)
plan = PlanExtraction(ExtractPlan)
plan_fit = PlanFit(FitPlanning)
adapt = Adapt(AdaptCall)
segment = Segment(SegmentCall)
analyze = Analyze(AnalyzeCall)
measure = MeasureStores(MeasureCall)
test = ReadOther(OtherSetCall)


def probe(
    model: Any, dataset: Any, probes: Sequence[str], settings: Fitting | None = None, **options: Any
) -> list[Result]: ...
