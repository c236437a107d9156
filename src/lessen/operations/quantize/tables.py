"""Embeddings in a few bits: each row of the table in codes, with a step and a code of zero of its own.

What a network looks up stays floating point; the file holds a byte for each number. A row is rounded by itself, so no
data is needed, and codes follow from the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lessen.core.errors import PlanError
from lessen.operations.weight_only.nearest import nearest
from lessen.surgery.codes import Coded, code_parameter
from lessen.surgery.modules import get_module
from lessen.surgery.parametrised import Owners, parametrised, stored


def find_tables(model: nn.Module, means: Callable[[str, nn.Module], bool]) -> tuple[list[str], dict[str, str]]:
    """The embeddings to code, by path and each table once, and why others are left."""
    found, left, seen, owners = list[str](), dict[str, str](), set[int](), Owners(model)
    for path, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or not means(path, module):
            continue
        forms = parametrised(module).get("weight")
        if forms:
            left[path] = f"its table is already stored in another form ({type(forms[0]).__name__})"
            continue
        table = stored(module, "weight")
        other = [at for at, owner, _ in owners.of(table) if not isinstance(owner, nn.Embedding)]
        if other:
            left[path] = f"its table is also the weight of {other[0]}"
        elif module.max_norm is not None:
            left[path] = "it renormalises its table when it is used (max_norm)"
        elif not table.is_floating_point():
            left[path] = f"its table is of {table.dtype}"
        elif id(table) not in seen:
            found.append(path)
        seen.add(id(table))
    return found, left


def code_tables(model: nn.Module, tables: Mapping[str, int], *, values: bool) -> None:
    """Put the tables of these embeddings into codes of so many bits, in place.

    Args:
        model: The network.
        tables: By path, the bits.
        values: False makes the structure only, for loading codes.

    Raises:
        PlanError: there is no such embedding.
    """
    owners = Owners(model)
    for path, bits in tables.items():
        module = get_module(model, path)
        if not isinstance(module, nn.Embedding) or parametrised(module):
            raise PlanError(
                f"The plan stores the table of {path!r} in {bits} bits, which is a {type(module).__name__}; "
                "expected an embedding with a plain table. The plan is of another network."
            )
        table = module.weight.detach()
        if values:
            coded = nearest(table.double().cpu(), bits=bits, group=table.shape[1], symmetric=False)
        else:
            rows = torch.zeros(len(table), 1)
            coded = Coded(codes=torch.zeros_like(table).byte(), steps=rows, zeros=rows.byte(), group=table.shape[1])
        here = {name: getattr(coded, name).to(table.device) for name in ("codes", "steps", "zeros")}
        code_parameter(owners, module, "weight", Coded(**here, group=coded.group), bits=bits)
