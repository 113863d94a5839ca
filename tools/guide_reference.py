"""What the guide's Python reference shows otherwise than the source has it.

An extension of griffe, which reads the source for mkdocs (`mkdocs.yml`).

- Sphinx's roles in docstrings, ``:class:`Store```, are plain code.
- Settings list their options, and annotated fields show their type alone.
- A function that takes options shows ``settings=None, **options`` (`iceprobe.core.options.takes`).
"""

import inspect
import re
from typing import Any

import griffe

from iceprobe import settings

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


def type_of(annotation: Any) -> Any:
    """``Annotated[type, …]`` → ``type``, within unions too."""
    if isinstance(annotation, griffe.ExprBinOp):
        annotation.left = type_of(annotation.left)
    elif str(annotation).startswith("Annotated["):
        return next(iter(annotation.slice))
    return annotation


class GuideReference(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if cls.module.path == settings.__name__ and cls.docstring:
            cls.docstring.value = inspect.getdoc(getattr(settings, cls.name)) or ""
        for field in cls.attributes.values():
            field.annotation = type_of(field.annotation)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if not any("takes" in str(one.value) for one in func.decorators):
            return
        model = getattr(settings, str(func.parameters["call"].annotation))
        named = [one for one in func.parameters if one.name != "call"]
        others = [named.pop()] if named[-1].kind is griffe.ParameterKind.var_keyword else []
        func.parameters = griffe.Parameters(
            *named,
            griffe.Parameter(
                "settings",
                annotation=f"{model.__mro__[1].__name__} | None",
                kind=griffe.ParameterKind.positional_or_keyword,
                default="None",
            ),
            griffe.Parameter(
                others[0].name if others else "options",
                annotation="Any",
                kind=griffe.ParameterKind.var_keyword,
            ),
        )
