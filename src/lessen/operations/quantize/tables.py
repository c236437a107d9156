"""Embeddings in a few bits: each row of the table in codes, with a step and a code of zero of its own.

What a network looks up stays floating point; the file holds a byte for each number. A row is rounded by itself, so no
data is needed, and codes follow from the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lessen.core.errors import PlanError
from lessen.operations.weight_only.grid import group_grids, on_grids, rounded_step
from lessen.surgery.forms.codes import MULTIPLES, Coded, code_parameter
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import parametrised, stored
from lessen.surgery.modules import get_module


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


def coded_table(table_NE: Tensor, *, bits: int) -> Coded:
    """A table in codes, a step for each row.

    Grids lie around zero where that makes squared errors at most a quarter larger, of the table and of its mean row:
    the code of zero is then one number for the whole table. Their steps are rounded up to multiples of one number, of
    which a file holds a byte each, where that adds at most a twentieth on average and a quarter in any row.

    Args:
        table_NE: N rows of E numbers.
        bits: Of a code.
    """
    features, middle = table_NE.shape[1], 2 ** (bits - 1)
    free_N1, place_N1 = group_grids(table_NE, bits=bits, group=features, symmetric=False)
    step_N1 = table_NE.abs().amax(1, keepdim=True) / (middle - 1)
    used_N1 = step_N1 > 0
    steps, others = step_N1[used_N1], free_N1[used_N1]
    if not len(steps) or max(_cost(steps, others).mean(), _cost(steps.norm(), others.norm())) > 1.25:
        return on_grids(table_NE, free_N1, place_N1, bits=bits, group=features)
    unit = (step_N1.max() / MULTIPLES).bfloat16().to(step_N1)
    coarse_N1 = (step_N1 / unit).ceil().clamp(1, MULTIPLES) * unit
    cost_n = _cost(coarse_N1[used_N1], steps)
    chosen_N1 = coarse_N1 if cost_n.mean() <= 1.05 and cost_n.max() <= 1.25 else rounded_step(step_N1)
    return on_grids(table_NE, chosen_N1, torch.full_like(step_N1, middle), bits=bits, group=features)


def _cost(steps: Tensor, others: Tensor) -> Tensor:
    """The squared error, which grows with the square of the step, as a multiple of that with other steps."""
    return (steps / others).square()


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
            coded = coded_table(table.double().cpu(), bits=bits)
        else:
            rows = torch.zeros(len(table), 1)
            coded = Coded(codes=torch.zeros_like(table).byte(), steps=rows, zeros=rows.byte(), group=table.shape[1])
        here = {name: getattr(coded, name).to(table.device) for name in ("codes", "steps", "zeros")}
        code_parameter(owners, module, "weight", Coded(**here, group=coded.group), bits=bits)
