"""How long a fit will take, estimated before it begins where that may be days.

A zero too many in ``--epochs`` asks for years. Some steps of a long fit are timed first (`iceprobe.plan_fit`);
a fit of few steps begins at once.
"""

from collections.abc import Sequence

from iceprobe.cost.fit import plan_fit
from iceprobe.protocols.protocol import for_images, protocol_of, total_steps
from iceprobe.settings import Fitting
from iceprobe.store.reader import Store

MANY_STEPS = 2000  # below it nothing is measured: a step takes far less than a minute
_MOMENT = 0.3  # seconds of timed steps


def expected_seconds(store: Store, probes: Sequence[str], settings: Fitting) -> float:
    """Seconds that the fit takes, about; 0 where it has so few steps that nothing was measured."""
    images, protocol = len(store["train"]), protocol_of(settings)
    if total_steps(for_images(protocol, images), images) < MANY_STEPS:
        return 0.0
    manifest = store.manifest
    return plan_fit(
        manifest.shape,
        images,
        probes,
        settings.model_copy(update={"budget": None, "budget_flops": None, "memory": None}),
        num_classes=len(store.classes),
        tokens=manifest.settings.tokens,
        measure_seconds=_MOMENT,
        here=False,
    ).seconds
