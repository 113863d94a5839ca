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
    parameters: names in the model of what learns.
    peft: the ``PeftModel`` around it, where there is one.
    """

    parameters: list[str]
    peft: Any = None

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what was learned: an adapter of peft's own format, or the weights that changed.

        The latter go back with ``model.load_state_dict(load_file(…), strict=False)``.
        """
        if self.peft is not None:
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            return
        learned = {
            name: model.get_parameter(name).detach().contiguous() for name in self.parameters
        }
        folder.mkdir(parents=True)
        save_file(learned, folder / WEIGHTS)
