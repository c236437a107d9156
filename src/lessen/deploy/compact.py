"""An OpenVINO model in few layers and few bits: what is small in the ONNX file stays small, the rest is carried out.

What reads an ONNX file spells every pair of quantizers out in a dozen layers, each several hundred bytes of XML. The
passes that `openvino.convert_model` runs make one layer of them, and also fold halves and codes to 32 bits. So the
tensors that are stored small are hidden from these passes. Afterwards constants are carried out by the rule of
`lessen.deploy.constants`: only if the result takes no more bits a number than what it is made from.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

_FULL = 32
_NUMPY = frozenset({"f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"})
_MOVES = frozenset({"Convert", "Reshape", "Broadcast"})
_CARRIED_OUT = frozenset({"Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Add", "Subtract", "Multiply"})
"""What may be left on constants once OpenVINO's own passes are done."""


def compact(openvino: Any, model: Any) -> None:
    """Let a model compute the same in fewer layers, in place.

    Args:
        openvino: The package.
        model: An `openvino.Model`, as it was read from a file of ours.
    """
    try:
        # What convert_model runs; no public name gives the passes alone.
        from openvino._offline_transformations import apply_moc_transformations
    except ImportError:  # a version that has them elsewhere: the file is larger, and as right
        return

    hidden = _hide(model)
    apply_moc_transformations(model, cf=True)
    for parameter, constant in hidden:
        model.remove_parameter(parameter)
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(constant.output(0))
    model.validate_nodes_and_infer_types()
    _carry_out(openvino, model)
    _scalar_ranges(openvino, model)
    _share(model)
    model.validate_nodes_and_infer_types()


def _hide(model: Any) -> list[tuple[Any, Any]]:
    """Put a parameter in the place of each tensor that is stored small; returns both."""
    from openvino import opset13

    hidden = []
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or _bits(op) >= _FULL or _of_a_grid(op):
            continue
        parameter = opset13.parameter(op.get_output_shape(0), op.get_output_element_type(0))
        for reader in op.output(0).get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        hidden.append((parameter, op))
    model.add_parameters([parameter for parameter, _ in hidden])
    return hidden


def _of_a_grid(op: Any) -> bool:
    """Whether a constant is the zero of a grid, to be folded away: a scalar, or one for each channel, all of them 0."""
    return _bits(op) == 8 and (not op.get_output_shape(0) or (not op.data.any() and _only_subtracted(op)))


def _only_subtracted(op: Any) -> bool:
    for reader in op.output(0).get_target_inputs():
        node = reader.get_node()
        kind = node.get_type_name()
        if not ((kind == "Subtract" and reader.get_index() == 1) or (kind in _MOVES and _only_subtracted(node))):
            return False
    return True


def _carry_out(openvino: Any, model: Any) -> None:
    """Replace what is known before the model runs by its result, if that takes no more bits."""
    known: dict[str, int] = {}
    for op in model.get_ordered_ops():
        name = op.get_name()
        if op.get_type_name() == "Constant":
            known[name] = _bits(op)
            continue
        if op.get_type_name() not in _CARRIED_OUT:
            continue
        sources = [value.get_source_output().get_node() for value in op.inputs()]
        if not all(each.get_name() in known for each in sources):
            continue
        known[name] = min(known[each.get_name()] for each in sources)
        ready = all(each.get_type_name() == "Constant" and _in_numpy(each) for each in sources)
        if not ready or not _in_numpy(op) or _bits(op) > known[name]:
            continue
        result = openvino.Tensor(op.get_output_element_type(0), op.get_output_shape(0))
        if op.evaluate([result], [openvino.Tensor(each.data, shared_memory=False) for each in sources]):
            made = openvino.op.Constant(result, shared_memory=False)
            made.set_friendly_name(op.get_friendly_name())
            known[made.get_name()] = known[name]
            _replace(op, made)


def _scalar_ranges(openvino: Any, model: Any) -> None:
    """The ends of a grid of one step for a whole tensor become scalars; they are written without axes then."""
    for op in model.get_ordered_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        for place in range(1, 5):
            end = op.input_value(place).get_node()
            shape = end.get_output_shape(0)
            if end.get_type_name() == "Constant" and shape and _size(end) == 1:
                scalar = openvino.op.Constant(openvino.Tensor(end.data.reshape(()), shared_memory=False))
                op.input(place).replace_source_output(scalar.output(0))


def _share(model: Any) -> None:
    """Let equal constants be one layer."""
    first: dict[tuple[Any, ...], Any] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or not _in_numpy(op):
            continue
        content = hashlib.blake2b(op.data.tobytes()).digest()
        key = (op.get_output_element_type(0).get_type_name(), tuple(op.get_output_shape(0)), content)
        one = first.setdefault(key, op)
        if one is not op:
            _replace(op, one)


def _replace(op: Any, other: Any) -> None:
    """Let everything read another operator; what the network returns keeps its own, and so its name."""
    for reader in op.output(0).get_target_inputs():
        if reader.get_node().get_type_name() != "Result":
            reader.replace_source_output(other.output(0))


def _in_numpy(op: Any) -> bool:
    """Whether NumPy has the type of an operator's result."""
    return op.get_output_element_type(0).get_type_name() in _NUMPY


def _bits(op: Any) -> int:
    return int(op.get_output_element_type(0).bitwidth)


def _size(op: Any) -> int:
    return math.prod(op.get_output_shape(0))
