"""Looks during training: a callback of Lightning, one of Hugging Face's Trainer, and one for a loop.

    iceprobe.integrations.lightning.Probe(data, probes, every="1 epoch")
    iceprobe.integrations.transformers.Probe(trainer, data, probes, every="1000 steps")
    iceprobe.integrations.loop.Probe(model, data, probes, every="1000 steps")

`looks.py` has what they share. Nothing is imported here, so that each needs its own trainer only.
"""
