"""A traced network in the operators that the exporter knows, without tracing it again.

`torch.onnx.export` traces a program anew, to take apart the operators that it has no translation for: four fifths of
the time of an export with free sizes. Nearly all networks need a handful of operators changed. Those are changed here,
in the graph: operators that write into their input, batch norm, average pooling, views and conversions. A network with
any other operator is left to the exporter.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

Known = frozenset[Any]
"""The operators that have a translation."""

aten = torch.ops.aten
_CHECKS = {
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
_SHAPED = {aten.flatten.using_ints, aten.unflatten.int, aten.reshape_as.default, aten.view_as.default}
_OWN_MEMORY = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.linear.default,
    aten.matmul.default,
    aten.batch_norm.default,
    aten.group_norm.default,
    aten.layer_norm.default,
    aten.instance_norm.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.softmax.int,
    aten.log_softmax.int,
    aten.scaled_dot_product_attention.default,
}
"""Composite operators whose result never shares memory with what they are given, which their schemas do not say."""


@contextlib.contextmanager
def exported_as_lowered() -> Iterator[None]:
    """Within, `torch.onnx.export` translates a program as it is; for programs that `lowered` returned."""
    from torch.onnx._internal.exporter import _fx_passes

    place: Any = _fx_passes
    decompose, promote = place.decompose_with_registry, place.insert_type_promotion_nodes

    def with_promotion(module: fx.GraphModule) -> None:
        if not _one_precision(module):
            promote(module)

    place.decompose_with_registry, place.insert_type_promotion_nodes = lambda program, registry: program, with_promotion
    try:
        yield
    finally:
        place.decompose_with_registry, place.insert_type_promotion_nodes = decompose, promote


def translated() -> Known:
    """The operators that PyTorch's exporter has a translation for; none where it is built in another way."""
    try:
        from torch.onnx._internal.exporter import _decomp, _fx_passes
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        if not hasattr(_fx_passes, "decompose_with_registry") or not hasattr(_fx_passes, "insert_type_promotion_nodes"):
            return frozenset()
        found = _decomp.get_onnx_implemented_overloads(ONNXRegistry.from_torchlib())
    except (ImportError, AttributeError):
        return frozenset()
    # Composite views have translations that PyTorch itself never uses, because it always takes them apart.
    return frozenset(target for target in found if not (_composite(target) and _aliases(target)))


class Sizes:
    """The nodes of a graph, up to where it was read, that compute a size.

    One node for each size, however many tensors have it: each is an operator in the file.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._nodes: dict[Any, fx.Node] = {}
        self._inputs: dict[Any, tuple[fx.Node, int]] = {}
        for node in graph.nodes:
            value: Any = node.meta.get("val") if node.op == "placeholder" else None
            if hasattr(value, "shape"):
                self._last = node
                for axis, size in enumerate(value.shape):
                    if not isinstance(size, int):
                        self._inputs.setdefault(size.node.expr, (node, axis))

    def read(self, node: fx.Node) -> bool:
        """Go on to a node; False where it read a size that is known, and is gone."""
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            return True
        found = self._nodes.setdefault(value.node.expr, node)
        if found is node or node.target is not aten.sym_size.int:
            return True
        node.replace_all_uses_with(found)
        node.graph.erase_node(node)
        return False

    def get(self, size: Any) -> fx.Node | int:
        """A number, or the node that computes it; -1 where there is none."""
        if isinstance(size, int):
            return size
        formula = size.node.expr
        if formula not in self._nodes and formula in self._inputs:
            given, axis = self._inputs[formula]
            with given.graph.inserting_after(self._last):
                self._nodes[formula] = given.graph.call_function(aten.sym_size.int, (given, axis))
            self._nodes[formula].meta = {"val": size}
        return self._nodes.get(formula, -1)


def lowered(program: torch.export.ExportedProgram, known: Known) -> torch.export.ExportedProgram | None:
    """The program in known operators, none of which writes into its input; None: some operator has to be taken apart.

    Args:
        program: As `torch.export.export` returns it; it is not changed.
        known: The operators that have a translation.
    """
    graph = _copied(program.graph)
    sizes = Sizes(graph)
    for node in graph.nodes:  # also while some are erased
        if node.op == "call_function" and not _lower(node, known, sizes):
            return None
        if node.op not in ("placeholder", "call_function", "output"):  # parts of a graph: loops and branches
            return None
    for node in graph.nodes:
        if node.target is aten.contiguous.default:
            _contiguous(node)
    graph.eliminate_dead_code()
    if any(node.op == "call_function" and node.target not in known for node in graph.nodes):
        return None
    result = copy.copy(program)
    result._graph_module = fx.GraphModule(program.graph_module, graph)
    result._graph_module.meta.update(program.graph_module.meta)
    return result


def _copied(graph: fx.Graph) -> fx.Graph:
    """The same graph with nodes of its own, under the same names; what the nodes stand for is shared."""
    result, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    result.output(result.graph_copy(graph, nodes))
    for original, node in nodes.items():
        node.name = original.name  # an input may be called `input`, which a copy would not be
    return result


def _lower(node: fx.Node, known: Known, sizes: Sizes) -> bool:
    """Change one node, in place and under its name; False where that cannot be done."""
    if not sizes.read(node):
        return True
    if node.target in _CHECKS:
        node.graph.erase_node(node)
        return True
    if node.target in _SHAPED:
        return _view(node, sizes)
    if node.target is aten.expand_as.default:
        return _expanded(node, sizes)
    if node.target is aten.contiguous.default:  # removed last: it may be a copy, and a write into it must not be lost
        return True
    if node.target in _RULES and _RULES[node.target](node):
        return True
    return _out_of_place(node, known) if _writes(node.target) else node.target in known


def _writes(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _out_of_place(node: fx.Node, known: Known) -> bool:
    """`x.relu_()` as `relu(x)`, which everything that reads x later reads, where nothing else shares memory with x."""
    given = node.args[0] if node.args else None
    if not _writes(node.target) or not isinstance(given, fx.Node):
        return False
    pure = _pure(node.target)
    tensors = [argument.meta.get("val") for argument in node.all_input_nodes]
    same = all(isinstance(value, Tensor) and value.dtype == node.meta["val"].dtype for value in tensors)
    if pure not in known or not same or not _alone(given):
        return False
    if not all(user is node or _owns_memory(user) for user in given.users):
        return False
    node.target = pure
    _read_instead(node, given)
    return True


def _pure(target: Any) -> Any:
    """The operator that returns what this one writes: `relu.default` of `relu_.default`."""
    packet = getattr(aten, target._schema.name.partition("::")[2].removesuffix("_"), None)
    return getattr(packet, target._overloadname, None) if packet is not None else None


def _owns_memory(node: fx.Node) -> bool:
    """Whether what a node gives shares memory with nothing that it is given."""
    target = node.target
    if target is operator.getitem:
        return _owns_memory(node.args[0])  # type: ignore[arg-type]
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target in _OWN_MEMORY:
        return True
    return not _aliases(target) and not _composite(target)


def _aliases(target: Any) -> bool:
    """Whether an operator says that its result shares memory with what it is given, or that it writes into that."""
    schema = getattr(target, "_schema", None)
    values = () if schema is None else (*schema.arguments, *schema.returns)
    return any(value.alias_info is not None for value in values)


def _composite(target: Any) -> bool:
    try:
        return isinstance(target, torch._ops.OpOverload) and bool(target._can_decompose())
    except RuntimeError:  # operators of TorchScript alone
        return False


def _alone(node: fx.Node) -> bool:
    """Whether nothing else reads the memory of a node: it is its own, or that of tensors that only it is a view of."""
    if _owns_memory(node):
        return True
    target, given = node.target, node.args[0] if node.args else None
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(given, fx.Node) or _writes(target):
        return False
    view = target._schema.arguments[0].alias_info is not None
    return view and len(given.users) == 1 and _alone(given)


def _read_instead(node: fx.Node, given: fx.Node) -> None:
    """Have all that comes after a node read the node instead of what it was given."""
    later, place = set(), node.next
    while place.op != "root":
        later.add(place)
        place = place.next
    for user in list(given.users):
        if user in later:
            user.replace_input_with(given, node)


def _drop(node: fx.Node) -> bool:
    """Without a node that gives what it is given; not an output, whose name the signature of the program holds."""
    if any(user.op == "output" for user in node.users):
        return False
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    node.graph.erase_node(node)
    return True


def _dropout(node: fx.Node) -> bool:
    return not _argument(node, 2, "train") and _drop(node)


def _batch_norm(node: fx.Node) -> bool:
    names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    image, weight, bias, mean, variance, training, momentum, eps = (
        _argument(node, place, name) for place, name in enumerate(names)
    )
    if mean is None and variance is None:
        target: Any = aten._native_batch_norm_legit.no_stats
        args: tuple[Any, ...] = (image, weight, bias, True, momentum, eps)
    elif training or mean is None or variance is None:
        return False
    else:
        target = aten._native_batch_norm_legit_no_training.default
        args = (image, weight, bias, mean, variance, momentum, eps)
    with node.graph.inserting_before(node):
        whole = node.graph.call_function(target, args)
    value = node.meta["val"]
    whole.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
    node.target, node.args, node.kwargs = operator.getitem, (whole, 0), {}
    return True


def _pooled(axes: int, average: Any) -> Callable[[fx.Node], bool]:
    """Pooling to one position is a mean; to more, windows of one size where they are known to fit."""

    def rule(node: fx.Node) -> bool:
        wanted = list(_argument(node, 1, "output_size"))
        if wanted == [1] * axes:
            node.target, node.args = aten.mean.dim, (node.args[0], list(range(-axes, 0)), True)
        else:
            sizes = node.args[0].meta["val"].shape[-axes:]  # type: ignore[union-attr]
            if len(wanted) != axes or not all(isinstance(size, int) for size in (*sizes, *wanted)):
                return False
            if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
                return False
            window = [size // parts for size, parts in zip(sizes, wanted, strict=True)]
            node.target, node.args = average, (node.args[0], window, window)
        node.kwargs = {}
        return True

    return rule


def _view(node: fx.Node, sizes: Sizes) -> bool:
    """Give a tensor the shape that is known of it: sizes as numbers, as nodes that compute them, and -1 for one."""
    shape = [sizes.get(size) for size in node.meta["val"].shape]
    if shape.count(-1) > 1:
        return False
    node.target, node.args, node.kwargs = aten.view.default, (node.args[0], shape), {}
    return True


def _reshape(node: fx.Node) -> bool:
    node.target = aten.view.default
    return True


def _contiguous(node: fx.Node) -> None:
    if not _drop(node):
        node.target, node.args, node.kwargs = aten.clone.default, node.args[:1], {}


def _broadcast(node: fx.Node) -> bool:
    node.target = aten.expand.default
    return True


def _transposed(node: fx.Node) -> bool:
    node.target, node.args = aten.transpose.int, (node.args[0], -2, -1)
    return True


def _narrow(node: fx.Node) -> bool:
    names = ("self", "dim", "start", "length")
    given, axis, start, length = (_argument(node, place, name) for place, name in enumerate(names))
    if not all(isinstance(value, int) for value in (axis, start, length)) or start < 0:
        return False
    node.target, node.args, node.kwargs = aten.slice.Tensor, (given, axis, start, start + length), {}
    return True


def _chunk(node: fx.Node) -> bool:
    """As a split into known sizes; one chunk is the whole."""
    axis = _argument(node, 2, "dim") or 0
    sizes = [part.shape[axis] for part in node.meta["val"]]
    taken = all(user.target is operator.getitem for user in node.users)
    if not taken or not all(isinstance(size, int) for size in sizes):
        return False
    if len(sizes) > 1:
        node.target, node.args, node.kwargs = aten.split_with_sizes.default, (node.args[0], sizes, axis), {}
        return True
    if any(user.op == "output" for part in node.users for user in part.users):
        return False
    for part in list(node.users):
        part.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        node.graph.erase_node(part)
    node.graph.erase_node(node)
    return True


def _expanded(node: fx.Node, sizes: Sizes) -> bool:
    shape = [sizes.get(size) for size in node.meta["val"].shape]
    node.target, node.args, node.kwargs = aten.expand.default, (node.args[0], shape), {}
    return -1 not in shape


def _converted(node: fx.Node) -> bool:
    given, wanted = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    if given.device != wanted.device:
        return False
    if given.dtype == wanted.dtype and not _asks_for_a_copy(node):
        return _drop(node)
    node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": wanted.dtype}
    return True


def _asks_for_a_copy(node: fx.Node) -> bool:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return "copy" in names and bool(_argument(node, names.index("copy"), "copy"))


_RULES: dict[Any, Callable[[fx.Node], bool]] = {
    aten.batch_norm.default: _batch_norm,
    aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout,
    aten.adaptive_avg_pool1d.default: _pooled(1, aten.avg_pool1d.default),
    aten.adaptive_avg_pool2d.default: _pooled(2, aten.avg_pool2d.default),
    aten.adaptive_avg_pool3d.default: _pooled(3, aten.avg_pool3d.default),
    aten.reshape.default: _reshape,
    aten.broadcast_to.default: _broadcast,
    aten.mT.default: _transposed,
    aten.narrow.default: _narrow,
    aten.chunk.default: _chunk,
    aten.to.dtype: _converted,
    aten.to.device: _converted,
    aten.to.dtype_layout: _converted,
    aten.type_as.default: _converted,
}


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)


def _one_precision(module: fx.GraphModule) -> bool:
    """Whether no operator of a graph converts what it is given; whole numbers next to fractions are written as such."""
    from torch.onnx._internal.fx.passes.type_promotion import TypePromotionTable

    table, graphs = TypePromotionTable(), [each for each in module.modules() if isinstance(each, fx.GraphModule)]
    if len(graphs) > 1:
        return False
    for node in module.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            rule = table.get_rule(node.target.overloadpacket)
            if rule is not None and not _converts_nothing(node, rule):
                return False
    return True


def _converts_nothing(node: fx.Node, rule: Any) -> bool:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta.get("val"))
    wanted = rule.preview_type_promotion(args, kwargs)
    if wanted.kwargs_dtypes:
        return False
    changed = list(node.args)
    for place, dtype in wanted.args_dtypes.items():
        value = args[place]
        if type(value) is int and dtype == torch.float32:
            changed[place] = float(value)
        elif not all(_has(part, dtype) for part in (value if isinstance(value, list | tuple) else [value])):
            return False
    node.args = tuple(changed)
    return True


def _has(value: Any, dtype: torch.dtype) -> bool:
    return value.dtype == dtype if isinstance(value, Tensor) else type(value) is float and dtype == torch.float32
