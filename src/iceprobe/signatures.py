"""What editors and type checkers see of the public functions that take a whole model of options.

Imported by type checkers alone: :func:`iceprobe.core.options.takes` makes the same of them at run time. The
options are those of the models, so that a new one is seen without a line here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

from torch import nn

from iceprobe.analysis.schema import Analysis as ProbeAnalysis
from iceprobe.backbones import Backbone
from iceprobe.cost import FitPlan, Plan
from iceprobe.datasets.base import Data
from iceprobe.results import Result
from iceprobe.results.segmentation import Segmentation as SegmentationResult
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
    Live,
    Segmentation,
    SegmentCall,
)
from iceprobe.store import Store
from iceprobe.tokens import TokenShape

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
Model: TypeAlias = Backbone | nn.Module | str
Place: TypeAlias = str | Path


class Fit(Protocol[P]):
    def __call__(
        self, store: Store | Place, probes: Sequence[str], settings: Fitting | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Result]: ...  # fmt: skip


class Probe(Protocol):
    def __call__(
        self, model: Any, dataset: Any, probes: Sequence[str], settings: Fitting | None = None,
        **options: Any,
    ) -> list[Result]: ...  # fmt: skip


class Extract(Protocol[P, R]):
    def __call__(
        self, backbone: Model, dataset: Data, features: Place = ..., settings: Extraction | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> R: ...  # fmt: skip


class MakeLive(Protocol[P]):
    def __call__(
        self, backbone: Model, dataset: Data, settings: Live | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> Store: ...  # fmt: skip


class PlanExtraction(Protocol[P]):
    def __call__(
        self, backbone: Backbone, dataset: Data | int, features: Place | None = ...,
        settings: Extraction | None = None, *args: P.args, **options: P.kwargs,
    ) -> Plan: ...  # fmt: skip


class PlanFit(Protocol[P]):
    def __call__(
        self, backbone: Backbone | TokenShape, dataset: Data | int, probes: Sequence[str],
        settings: Fitting | None = None, *args: P.args, **options: P.kwargs,
    ) -> FitPlan: ...  # fmt: skip


class Adapt(Protocol[P]):
    def __call__(
        self, backbone: Backbone | str, dataset: Data, adaptations: Sequence[str] = ...,
        probes: Sequence[str] = ..., settings: Adaptation | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[Result]: ...  # fmt: skip


class Segment(Protocol[P]):
    def __call__(
        self, store: Store, probes: Sequence[str] = ..., settings: Segmentation | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[SegmentationResult]: ...  # fmt: skip


class Analyze(Protocol[P]):
    def __call__(
        self, results: Sequence[Result], settings: Analysis | None = None,
        *args: P.args, **options: P.kwargs,
    ) -> list[ProbeAnalysis]: ...  # fmt: skip


def _analyze(model: Callable[P, Any]) -> Analyze[P]:
    raise NotImplementedError


def _segment(model: Callable[P, Any]) -> Segment[P]:
    raise NotImplementedError


def _fit(model: Callable[P, Any]) -> Fit[P]:
    raise NotImplementedError


def _extract(model: Callable[P, Any], made: type[R]) -> Extract[P, R]:
    raise NotImplementedError


def _live(model: Callable[P, Any]) -> MakeLive[P]:
    raise NotImplementedError


def _plan(model: Callable[P, Any]) -> PlanExtraction[P]:
    raise NotImplementedError


def _plan_fit(model: Callable[P, Any]) -> PlanFit[P]:
    raise NotImplementedError


def _adapt(model: Callable[P, Any]) -> Adapt[P]:
    raise NotImplementedError


fit = _fit(FitCall)
extract = _extract(ExtractCall, Store)
extract_layers = _extract(ExtractCall, list[Store])
live = _live(Live)
plan = _plan(ExtractPlan)
plan_fit = _plan_fit(FitPlanning)
adapt = _adapt(AdaptCall)
segment = _segment(SegmentCall)
analyze = _analyze(AnalyzeCall)
probe: Probe
