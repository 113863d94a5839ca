"""Sphinx's roles in docstrings, ``:class:`Store```, as plain code in the guide's Python reference.

An extension of griffe, which reads the docstrings for mkdocs (`mkdocs.yml`).
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


class DocstringRoles(griffe.Extension):
    """Every role becomes the code that it names."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
