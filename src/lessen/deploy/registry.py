"""What the exporter knows of operators is read once in a process.

For each export it would parse the source of all 500 functions of onnxscript anew: a third of the time that the export
of a small network takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_known: dict[Any, Any] = {}
"""By opset: the functions of each operator."""


@contextlib.contextmanager
def one_registry() -> Iterator[None]:
    """In force while networks are exported; where PyTorch's exporter is built in another way, nothing changes."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = vars(ONNXRegistry).get("from_torchlib")
    except ImportError:
        original = None
    if not isinstance(original, classmethod):
        yield
        return

    def from_torchlib(cls: Any, *args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in _known:
            _known[key] = original.__func__(cls, *args, **kwargs)
        made = cls()
        made.__dict__.update(vars(_known[key]))
        made.functions = {name: list(each) for name, each in _known[key].functions.items()}  # custom ones are put in
        return made

    table: Any = ONNXRegistry
    table.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        table.from_torchlib = original
