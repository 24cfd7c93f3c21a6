"""Griffe extension: pages show inherited arguments, roles such as ``:class:`X``` as code, ``Example:`` as a block."""

import importlib
import inspect
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Takes the docstring of the class itself, to which the arguments of its bases are added."""
        if cls.docstring is not None and cls.path.startswith("samix."):
            living = getattr(importlib.import_module(cls.module.path), cls.name, None)
            cls.docstring.value = inspect.cleandoc(getattr(living, "__doc__", None) or cls.docstring.value)

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replaces what griffe does not read."""
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
