"""Griffe extension: pages show inherited arguments, roles such as ``:class:`X``` as code, ``Example:`` as a block."""

import importlib
import inspect
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replaces what griffe does not read."""
        if obj.docstring is not None:
            if obj.is_class and obj.path.startswith("samix."):  # the class itself has the arguments of its bases too
                living = getattr(importlib.import_module(obj.module.path), obj.name, None)
                obj.docstring.value = inspect.getdoc(living) or obj.docstring.value if living else obj.docstring.value
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
