"""Constants of an ONNX graph: what is known before it runs, and what of it is carried out when the file is written.

A tensor that is stored small (codes of a few bits, halves) is made a weight by an operator of our own domain, `DOMAIN`.
No optimiser knows how to compute such an operator, so none can fold it back to 32 bits. The twin of each stored form
(`lessen.deploy.forms`) replaces its operators by what is stored at the very end. There is one rule, and it is here: a
constant is carried out only if its numbers take no more bits than those it is made from.

`onnx_ir` has no pass that folds constants, and that of onnxscript knows no such rule, so the folding here is our own.

ONNX Runtime itself carries out what is left when it loads a file. The file is small then, and the memory is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

DOMAIN = "lessen"
MICROSOFT = "com.microsoft"
Array = np.ndarray[Any, Any]
Stored = tuple[Callable[[ir.Node, list[Array]], Array], Callable[[ir.Node], int]]
"""Of an operator of ours: its values from its node and what it is given, and the bits of a number it is made from."""

_KEPT = frozenset({"DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})
_KEPT |= frozenset({"Multinomial", "Bernoulli", "If", "Loop", "Scan"})
_FULL = 32


def own_operator(name: str, inputs: int, **attributes: Any) -> Any:
    """An operator of our domain, to be called in a translation of the exporter; it gives float32.

    Args:
        name: The operator.
        inputs: How many tensors it takes.
        attributes: Its attributes, each with the type of `onnx.defs.OpSchema.AttrType`.
    """
    import onnx
    from onnxscript.values import Op, Opset

    schema = onnx.defs.OpSchema
    types = [(f"T{place}", ["tensor(float)", "tensor(uint8)"], "") for place in range(inputs)]
    made = schema(
        name,
        DOMAIN,
        1,
        inputs=[schema.FormalParameter(f"x{place}", f"T{place}") for place in range(inputs)],
        outputs=[schema.FormalParameter("y", "tensor(float)")],
        type_constraints=types,
        attributes=[schema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
    )
    return Op(Opset(DOMAIN, 1), name, made)


class Constants:
    """The constants of a graph, by value. Values are computed when they are asked for.

    Args:
        model: The model; its functions are inlined, and constants are initializers.
        stored: The operators of our domain, by name.
    """

    def __init__(self, model: ir.Model, stored: dict[str, Stored]) -> None:
        self.graph = model.graph
        self._opset = model.opset_imports[""]
        self._stored = stored
        self._bits: dict[ir.Value, int | None] = {}
        """Every constant, with the bits of the stored form that it is made from; None where there is none."""
        self._values: dict[ir.Value, Array] = {}
        self._names: Counter[str] = Counter()
        for node in self.graph:
            ours = node.domain == DOMAIN
            if ours or not (node.domain or node.op_type in _KEPT):
                self._look_at(node, ours=ours)

    def known(self, value: ir.Value | None) -> bool:
        """Whether a value is a constant."""
        return value is not None and (value in self._bits or _initializer(value) is not None)

    def _look_at(self, node: ir.Node, *, ours: bool) -> None:
        given = [value for value in node.inputs if value is not None]
        if not all(map(self.known, given)):
            return
        sources = [self._bits[value] for value in given if self._bits.get(value) is not None]
        sources += [self._stored[node.op_type][1](node)] if ours else []
        bits = min((each for each in sources if each is not None), default=None)
        self._bits |= dict.fromkeys(node.outputs, bits)

    def value(self, value: ir.Value | None) -> Array | None:
        """The value of a constant, or None if it is not one."""
        if value is None:
            return None
        tensor = _initializer(value)
        if tensor is not None:
            return np.asarray(tensor.numpy())
        if value not in self._bits:
            return None
        if value not in self._values:
            node = value.producer()
            assert node is not None  # a constant that is no initializer was computed
            self._values |= zip(node.outputs, self._computed(node), strict=True)
        return self._values[value]

    def _computed(self, node: ir.Node) -> list[Array]:
        values = {value: self.value(value) for value in node.inputs if value is not None}
        given = {value: known for value, known in values.items() if known is not None}
        if node.domain == DOMAIN:
            return [self._stored[node.op_type][0](node, list(given.values()))]
        return self.run(node, given)

    def run(self, node: ir.Node, given: dict[ir.Value, Array]) -> list[Array]:
        """What an operator of ONNX itself gives for these values of its inputs."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        proto = ir.to_proto(node)
        asked, wanted = (
            [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name]
            for names in (proto.input, proto.output)
        )
        alone = onnx.helper.make_graph([proto], "constant", asked, wanted)
        feeds: dict[str, Any] = {value.name: content for value, content in given.items() if value.name}
        return [np.asarray(value) for value in ReferenceEvaluator(alone, opsets={"": self._opset}).run(None, feeds)]

    def carry_out(self, value: ir.Value | None, *, step: bool = False) -> None:
        """Replace a constant by its result; where that would take more bits than what it is made from, its parts.

        Args:
            value: Anything; what is no constant is left alone.
            step: Whether it is the step or the zero of a grid. These are stored as they are.
        """
        if value is None or value not in self._bits:
            return
        bits, node, content = self._bits[value], value.producer(), self.value(value)
        assert node is not None
        assert content is not None
        dtype = ir.tensor(content).dtype
        if bits is None or step or self.narrower(dtype.bitwidth, bits):
            value.replace_all_uses_with(self.add(value.name or "constant", content))
            return
        clipped = self.value(node.inputs[0]) if node.op_type == "Clip" else None
        if clipped is not None and node.inputs[0] is not None and np.array_equal(clipped, content):
            value.replace_all_uses_with(node.inputs[0])  # OpenVINO does not look through it
        pair = node.op_type == "QuantizeLinear"
        for place, each in enumerate(node.inputs):
            self.carry_out(each, step=pair and place > 0)

    @staticmethod
    def narrower(bits: int, source: int) -> bool:
        """The rule: whether a result of so many bits a number may take the place of a form of `source` bits."""
        return bits <= source

    def before(self, node: ir.Node, op: str, given: list[ir.Value | None], *, name: str, **how: Any) -> ir.Value:
        """Put a new operator in front of a node, and return what it gives.

        Args:
            node: The node.
            op: The operator.
            given: What it takes.
            name: What the value is called.
            how: Its attributes, and its domain.
        """
        domain = how.pop("domain", "")
        made = ir.node(op, given, how, domain=domain, outputs=[ir.Value(name=name)])
        node.prepend(made)
        if domain == DOMAIN or not (domain or op in _KEPT):
            self._look_at(made, ours=domain == DOMAIN)
        return made.outputs[0]

    def turned(self, node: ir.Node, codes: ir.Value, order: list[int]) -> ir.Value:
        """A constant with its axes in another order, for a node."""
        value = self.value(codes)
        if codes.is_initializer() and value is not None:
            return self.add(f"{codes.name}_turned", value.transpose(order))
        # Made from fewer bits when the file is loaded.
        return self.before(node, "Transpose", [codes], name=f"{codes.name}_turned", perm=order)

    def add(self, name: str, content: Any) -> ir.Value:
        """A new initializer, whose name is changed where it is taken."""
        known = self.graph.initializers
        count = self._names[name]  # names below are taken: looking from the first one each time would be quadratic
        while (fresh := f"{name}_value_{count}" if count else f"{name}_value") in known:
            count += 1
        self._names[name] = count + 1
        tensor = ir.tensor(np.asarray(content, order="C"), name=fresh)
        value = ir.Value(
            name=fresh, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def replace(node: ir.Node, value: ir.Value) -> None:
    """Let everything read `value` in the place of what a node with one output gives; outputs keep their names."""
    old = node.outputs[0]
    if old.is_graph_output():
        value.name, old.name = old.name, f"{old.name}_before"
    old.replace_all_uses_with(value, replace_graph_outputs=True)


def stored_weight(constants: Constants, value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that gives a weight whose codes are constants, or None."""
    maker = None if value is None else value.producer()
    constant = maker is not None and maker.op_type == "DequantizeLinear" and constants.known(maker.inputs[0])
    return maker if constant else None


def found_grid(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that gives values on a grid that was found at run time, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    maker = node.inputs[0].producer()
    return node if maker is not None and maker.op_type == "DynamicQuantizeLinear" else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def _initializer(value: ir.Value) -> Any:
    return value.const_value if value.is_initializer() and not value.is_graph_input() else None
