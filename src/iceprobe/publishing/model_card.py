"""The model card of a published probe: ``README.md`` with ``model-index``, and ``.eval_results`` where there is a benchmark.

Metric values are those of ``results.json``, fractions where a metric is one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from iceprobe.core.extras import require
from iceprobe.core.specs import Spec, parse_spec
from iceprobe.exporting.card import Card
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import figure, markdown_text, to_markdown
from iceprobe.tasks.registry import get_task

HUB = "huggingface_hub"
# Identifiers of the Hub's metrics (huggingface.co/metrics), with the arguments of their `compute` that give ours.
_METRICS: dict[str, tuple[str, dict[str, str]]] = {
    "top1": ("accuracy", {}),
    "top5": ("top_5_accuracy", {}),
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_micro": ("f1", {"average": "micro"}),
    "map": ("mean_average_precision", {}),
    "auroc": ("roc_auc", {"average": "macro"}),
    "auroc_micro": ("roc_auc", {"average": "micro"}),
    "r2": ("r_squared", {}),
    "pearson": ("pearsonr", {}),
    "spearman": ("spearmanr", {}),
}
_HUB_BACKBONES = ("transformers", "diffusers")


def base_model_of(backbone: str) -> str | None:
    """The Hub's id of the backbone, where its spec is one."""
    spec = parse_spec(backbone)
    named = spec.kind in _HUB_BACKBONES and spec.name.count("/") == 1 and not is_local(spec)
    return spec.name if named else None


def is_local(spec: Spec) -> bool:
    """Whether it names a folder or file of this machine."""
    name = spec.name.removeprefix("local-dir:")
    return name != spec.name or name.startswith(("/", "~", ".")) or Path(name).exists()


def dataset_of(dataset: str) -> str | None:
    """The Hub's id of the data set, where its spec is one."""
    spec = parse_spec(dataset)
    return spec.name if spec.kind == "huggingface" and spec.name.count("/") == 1 else None


def task_of(result: FittedResult, card: Card) -> str:
    """The Hub's name of the task."""
    if result.task in ("classification", "multilabel"):
        kind = card.backbone.preprocessing.get("kind", "image")
        return {"clip": "video", "sound": "audio"}.get(kind, "image") + "-classification"
    return "other"


def model_card(
    repo: str,
    result: FittedResult,
    results: Sequence[FittedResult],
    card: Card,
    licence: str | None,
) -> bytes:
    """``README.md``: metadata that the Hub reads, what the probe is, its scores and how it is loaded."""
    hub = require(HUB, "hub", "hub:")
    base, dataset = base_model_of(result.backbone), dataset_of(result.dataset)
    data = hub.ModelCardData(
        license=licence,
        library_name="iceprobe",
        pipeline_tag=task if (task := task_of(result, card)) != "other" else None,
        base_model=base,
        datasets=dataset,
        tags=["iceprobe", "probing", "frozen-backbone"],
        model_name=repo.partition("/")[2],
        eval_results=_eval_results(hub, result, task),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(repo, result, results, card)}".encode()


def hub_metric(result: FittedResult, name: str) -> tuple[str, str | None, dict[str, str]]:
    """The Hub's name of a metric, its configuration there, and its arguments; ours where it knows none."""
    kind, arguments = _METRICS.get(name, (name, {}))
    config = None
    if kind in ("f1", "roc_auc") and result.task == "multilabel":
        config = "multilabel"
    elif kind == "roc_auc" and result.classes > 2:
        config, arguments = "multiclass", {**arguments, "multi_class": "ovr"}
    return kind, config, arguments


def _eval_results(hub: Any, result: FittedResult, task: str) -> list[Any]:
    spec = parse_spec(result.dataset)
    found = []
    for name, score in result.metrics.items():
        kind, config, arguments = hub_metric(result, name)
        told = hub.EvalResult(
            task_type=task,
            dataset_type=dataset_of(result.dataset) or spec.name,
            dataset_name=spec.name,
            dataset_split=result.split,
            metric_type=kind,
            metric_name=get_task(result.task).metric(name).title,
            metric_config=config,
            metric_value=score.mean,
            metric_args={
                **arguments,
                "iceprobe_metric": name,
                "interval_95": list(score.interval) if score.interval else None,
                "selected_on": result.selected_on,
                "seeds": len(result.seeds),
            },
        )
        found.append(told)
    return found


def eval_results_file(result: FittedResult) -> bytes | None:
    """``.eval_results/iceprobe.yaml``: for a data set of the Hub alone, whose leaderboards it enters."""
    dataset = dataset_of(result.dataset)
    if dataset is None:
        return None
    hub = require(HUB, "hub", "hub:")
    kind, _, arguments = hub_metric(result, result.primary)
    metric = ", ".join([kind, *(f"{key}={value}" for key, value in arguments.items())])
    entry = hub.EvalResultEntry(
        dataset_id=dataset,
        task_id=parse_spec(result.dataset).options.get("config", "default"),
        value=result.score.mean,
        date=result.created or None,
        notes=f"{metric} ({result.primary} of iceprobe) of a frozen backbone, probe {result.label}, selected on {result.selected_on}; "
        f"{result.test_images or 0:,} examples of split {result.split}",
    )
    rows = hub.eval_result_entries_to_yaml([entry])
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True).encode()


def _text(repo: str, result: FittedResult, results: Sequence[FittedResult], card: Card) -> str:
    chance = (
        " Its settings were selected on the very split that the scores are read on."
        if result.selected_on_reported
        else ""
    )
    outputs = get_task(result.task).outputs
    several = (
        f" They are means over {len(result.seeds)} {result.variance if result.variance == 'replicates' else 'seeds'}; the "
        f"probe here is that of seed {card.seed}, which reads {figure(card.measured.value, result.metric)}"
        f"{result.metric.unit}."
        if len(result.seeds) > 1
        else ""
    )
    trusted = ", trust=True" if _runs_code(card) else ""
    return f"""# {markdown_text(result.label)} on {markdown_text(result.backbone)}

A probe of a frozen backbone, fitted by iceprobe (`pip install iceprobe[hub]`): `{_code(result.label)}` reads the tokens of
`{_code(result.backbone)}` and predicts {card.num_classes} {outputs} of `{_code(result.dataset)}`. Settings were selected on
{markdown_text(result.selected_on)}.{chance} Intervals of 95% are in `model-index` and in `results.json`.{several}

```python
import iceprobe

model = iceprobe.load_probe("hub:{repo}"{trusted})
probabilities = model.predict(images)  # PIL images
maps = model.attention(images)
```

```sh
iceprobe predict hub:{repo} --examples FOLDER
```

## The whole run

{to_markdown(results)}
`results.json` has every number. No number here was verified by others.
"""


def _code(text: str) -> str:
    return text.replace("`", "'").replace("\n", " ")


def _runs_code(card: Card) -> bool:
    spec = parse_spec(card.backbone.spec)
    return spec.kind in ("python", "torch_hub") or spec.options.get("trust") == "true"
