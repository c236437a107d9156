"""Rows of tables that are known when the file is written: only these are stored.

A transformer that is written for 24 tokens reads 24 of its 512 positions, always the same. The table may be numbers,
halves or codes with steps; each of its tensors is cut to the rows.
"""

from __future__ import annotations

import onnx_ir as ir

from lessen.deploy.constants import DOMAIN, Array, Constants, attribute, replace


def choose_rows(constants: Constants) -> None:
    """Cut tables that one Gather reads at constant places to what it takes, in place."""
    for node in [node for node in constants.graph if node.op_type == "Gather" and not node.domain]:
        table, places = node.inputs[0], constants.value(node.inputs[1])
        if table is None or places is None or attribute(node, "axis", 0) != 0 or not _alone(table, node):
            continue
        whole = constants.value(table)
        if whole is None or places.size >= len(whole) or not ((places >= -len(whole)) & (places < len(whole))).all():
            continue
        rows = _cut(constants, node, table, places.ravel())
        if rows is None:
            continue
        if places.ndim != 1:
            shape = constants.add(f"{rows.name}_shape", [*places.shape, *whole.shape[1:]])
            rows = constants.before(node, "Reshape", [rows, shape], name=f"{rows.name}_placed")
        replace(node, rows)
        constants.graph.remove(node, safe=True)


def _alone(table: ir.Value, node: ir.Node) -> bool:
    """Whether nothing but a node reads a table."""
    return [use.node for use in table.uses()] == [node] and not table.is_graph_output()


def _cut(constants: Constants, node: ir.Node, table: ir.Value, places: Array) -> ir.Value | None:
    """The rows of a table in the form in which it is stored, in front of a node; None where nobody knows that form."""
    maker, name = table.producer(), f"{table.name}_rows"
    if maker is None:
        content = constants.value(table)
        return None if content is None else constants.add(name, content[places])
    if maker.domain != DOMAIN:
        return None
    parts = [None if value is None else _cut(constants, node, value, places) for value in maker.inputs]
    if any(part is None for part in parts):
        return None
    about = {key: each.value for key, each in maker.attributes.items()}
    return constants.before(node, maker.op_type, parts, name=name, domain=DOMAIN, **about)
