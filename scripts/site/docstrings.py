"""A griffe extension: settings are read as the dataclasses they are, and doctests are shown as code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Class, Decorator, ExprCall, ExprKeyword, ExprName, Extension, Object

_METHODS = Path(__file__).parents[2] / "docs/methods"
_LIKE_DATACLASS = {"settings", "shared_settings", "named_fields"}
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", flags=re.M)


class LessenDocstrings(Extension):
    """What griffe needs to know of lessen's docstrings."""

    def on_class_instance(self, *, cls: Class, **_: Any) -> None:
        """Treat lessen's decorators as `@dataclass(kw_only=True)`: the fields become the parameters of the class."""
        if any(str(decorator.value) in _LIKE_DATACLASS for decorator in cls.decorators):
            dataclass = ExprName("dataclasses.dataclass")
            call = ExprCall(dataclass, [ExprKeyword("kw_only", "True", function=dataclass)])
            cls.decorators.append(Decorator(call, lineno=cls.lineno, endlineno=cls.lineno))

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Put doctests into fences, and link a method to its page."""
        if obj.docstring is None:
            return
        text = _DOCTEST.sub(lambda test: f"```pycon\n{test[0]}\n```", obj.docstring.value)
        if obj.is_class and (_METHODS / f"{obj.name}.md").is_file():
            summary, _, rest = text.partition("\n\n")
            link = f'<a href="../methods/{obj.name}.html">Card, settings and evidence of {obj.name}</a>'
            text = f"{summary}\n\n{link}\n\n{rest}"
        obj.docstring.value = text
