"""LSTMs in integers: ONNX Runtime's DynamicQuantizeLSTM, and the same network in standard operators for OpenVINO.

The exporter turns the gates of the weights round (i, f, g, o of PyTorch are i, o, f, c in ONNX), so what reaches an
LSTM are slices of a DequantizeLinear, concatenated. The slices are carried out on codes and steps alike. The kernel
rounds to 8 bits what the layer is given, for the whole sequence at once, and its hidden states, step by step.

Shapes: D directions, H hidden units, I inputs of a layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lessen.deploy.constants import MICROSOFT, Array, Constants, attribute, found_grid, stored_weight

KERNEL = "DynamicQuantizeLSTM"
_OPTIONS = frozenset({"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"})
_OPTIONS |= {"input_forget"}
_MOVES = {"Slice": 1, "Unsqueeze": 1, "Squeeze": 1, "Transpose": 1, "Reshape": 1, "Identity": 1, "Concat": None}
"""What only moves numbers, and how many of its inputs are those; None for all."""
_W, _R = 1, 2
_STEPS = {_W: 8, _R: 10}
"""Where the kernel takes the steps of each weight; their zeros come next."""


def multiply_recurrent(constants: Constants) -> None:
    """Put integer kernels in the place of the LSTMs whose weights are constant codes, in place.

    An LSTM that the kernel cannot compute keeps its weights in codes, which are multiplied by their steps when the file
    is loaded.
    """
    for node in [node for node in constants.graph if node.op_type == "LSTM"]:
        weights = {place: _codes_and_steps(constants, node.inputs[place]) for place in (_W, _R)}
        if any(each is None for each in weights.values()):
            continue
        fits = not attribute(node, "layout", 0) and all(_by_row(*each) for each in weights.values() if each)
        for place, each in weights.items():
            assert each is not None
            codes, steps = each
            given = node.inputs[place]
            name = "weight" if given is None else given.name or "weight"
            if not fits:
                stored = constants.add(f"{name}_codes", codes)
                node.replace_input_with(place, _floating(constants, node, stored, steps[:, :, :1], name))
                continue
            node.replace_input_with(place, constants.add(f"{name}_codes", codes.transpose(0, 2, 1)))
            node.resize_inputs(12)
            node.replace_input_with(_STEPS[place], constants.add(f"{name}_steps", steps[:, :, 0]))
            zeros = np.zeros(steps.shape[:2], np.int8)
            node.replace_input_with(_STEPS[place] + 1, constants.add(f"{name}_zeros", zeros))
        if fits:
            _drop_pair(node)
            _become(node, KERNEL, MICROSOFT)
            constants.graph.opset_imports.setdefault(MICROSOFT, 1)


def in_standard_operators(constants: Constants) -> None:
    """Put LSTMs of ONNX itself in the place of the integer kernels, in place.

    Their weights stay codes, which are multiplied by their steps.
    """
    for node in [node for node in constants.graph if node.op_type == KERNEL]:
        for place in (_W, _R):
            codes, steps = node.inputs[place], constants.value(node.inputs[_STEPS[place]])
            assert codes is not None
            assert steps is not None
            name = codes.name or "weight"
            turned = constants.turned(node, codes, [0, 2, 1])
            node.replace_input_with(place, _floating(constants, node, turned, steps[:, :, None], name))
        node.resize_inputs(8)
        _become(node, "LSTM", "")


def _codes_and_steps(constants: Constants, value: ir.Value | None) -> tuple[Array, Array] | None:
    """The codes of a weight and the step of each, both of its shape; None where it is not made of constant codes."""
    maker = None if value is None else value.producer()
    if maker is None:
        return None
    if stored_weight(constants, value) is maker:
        codes, steps, *zeros = (constants.value(each) for each in maker.inputs)
        if codes is None or steps is None or codes.dtype != np.int8 or any(np.any(zero) for zero in zeros):
            return None
        shape = [1] * codes.ndim
        shape[attribute(maker, "axis", 1)] = -1
        return codes, np.broadcast_to(steps.reshape(shape if steps.size > 1 else ()), codes.shape)
    if maker.op_type not in _MOVES or maker.domain:
        return None
    count = _MOVES[maker.op_type]
    parts = [_codes_and_steps(constants, each) for each in maker.inputs[:count]]
    others = {} if count is None else {each: constants.value(each) for each in maker.inputs[count:] if each is not None}
    if any(each is None for each in parts) or any(each is None for each in others.values()):
        return None
    moved = []
    for which in (0, 1):
        given = {each: part[which] for each, part in zip(maker.inputs[:count], parts, strict=True) if part and each}
        (result,) = constants.run(maker, given | {each: known for each, known in others.items() if known is not None})
        moved.append(result)
    return moved[0], moved[1]


def _by_row(codes: Array, steps: Array) -> bool:
    """Whether all codes of a row (direction, gate and unit) have one step."""
    return codes.ndim == 3 and bool((steps == steps[:, :, :1]).all())


def _drop_pair(node: ir.Node) -> None:
    """Let a layer read what its input was before it was rounded: the kernel rounds it again."""
    reader = node
    while True:
        value = reader.inputs[0]
        pair = found_grid(value)
        if pair is not None and pair.inputs[0] is not None:
            maker = pair.inputs[0].producer()
            assert maker is not None
            reader.replace_input_with(0, maker.inputs[0])
            return
        maker = None if value is None else value.producer()
        alone = value is not None and len(list(value.uses())) == 1 and not value.is_graph_output()
        if maker is None or not alone or _MOVES.get(maker.op_type) != 1:
            return
        reader = maker


def _floating(constants: Constants, node: ir.Node, codes: ir.Value, steps: Array, name: str) -> ir.Value:
    """Codes times steps in front of a node."""
    cast = constants.before(node, "Cast", [codes], name=f"{name}_cast", to=ir.DataType.FLOAT.value)
    return constants.before(node, "Mul", [cast, constants.add(f"{name}_steps", steps)], name=f"{name}_floating")


def _become(node: ir.Node, op: str, domain: str) -> None:
    node.op_type, node.domain = op, domain
    for name in [name for name in node.attributes if name not in _OPTIONS]:
        del node.attributes[name]
