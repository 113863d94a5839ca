"""Public names that are imported on first use.

``iceprobe --help`` and ``iceprobe ls`` must answer at once, and torch takes seconds to import. So
each package's ``__init__.py`` lists where its public names are defined and imports none of them.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562).

    Args:
        package: the ``__name__`` of the module.
        homes: public name → the submodule that defines it; ``""`` if the name is a submodule.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
