"""What an adaptation changes in a model, and how it is saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

WEIGHTS = "backbone.safetensors"  # of adaptations that add nothing


@dataclass(frozen=True)
class Change:
    """Attributes:
    parameters: names of the model's parameters that learn.
    peft: the ``PeftModel`` around the model, if there is one.
    """

    parameters: list[str]
    peft: Any = None

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write an adapter in peft's own format, or the weights that changed.

        Load the latter with ``model.load_state_dict(load_file(…), strict=False)``.
        """
        if self.peft is not None:
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            return
        learned = {
            name: model.get_parameter(name).detach().contiguous() for name in self.parameters
        }
        folder.mkdir(parents=True)
        save_file(learned, folder / WEIGHTS)
