"""How long a fit will take, told before it begins where that may be days.

A zero too many in ``--epochs`` asks for years. A fit of many steps is rehearsed for a moment first
(`iceprobe.plan_fit`); one of few steps begins at once.
"""

from collections.abc import Sequence

from iceprobe.cost.fit import plan_fit
from iceprobe.protocols.protocol import Protocol, for_images, total_steps
from iceprobe.store.reader import Store

MANY_STEPS = 2000  # below it nothing is measured: a step takes far less than a minute
_MOMENT = 0.3  # seconds of rehearsal


def expected_seconds(
    store: Store,
    probes: Sequence[str],
    protocol: Protocol,
    *,
    seeds: int | None,
    replicates: int | None,
    device: str | None,
) -> float:
    """Seconds that the fit takes, about; 0 where it has so few steps that nothing was measured."""
    images = len(store["train"])
    if total_steps(for_images(protocol, images), images) < MANY_STEPS:
        return 0.0
    manifest = store.manifest
    return plan_fit(
        manifest.shape,
        images,
        probes,
        num_classes=len(store.classes),
        protocol=protocol.name,
        seeds=seeds,
        replicates=replicates,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        learning_rates=protocol.learning_rates,
        weight_decays=protocol.weight_decays,
        min_steps=protocol.min_steps,
        device=device,
        tokens=manifest.settings.tokens,
        measure_seconds=_MOMENT,
        here=False,
    ).seconds
