"""Simplify an ONNX graph in a time that grows with its nodes.

These are the passes of `onnxscript.optimizer.optimize`, without one rule: two slices that become a split. It looks for
its second slice among all nodes, once for each node, and so took three quarters of the export of a deep int8 network.
The exporter writes slices with steps, which the rule does not match.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes

_ROUNDS = 2
"""How often constants are folded and rules applied, as in onnxscript; what one rule leaves, another may match."""
_LEFT_OUT = "slice_split_rule"
_COMMUTE = ("mul_by_1_rule", "add_0_rule")
_RULES = """sub_0_rule div_by_1_rule dropout_zero_rule dropout_inference_rule
two_reshapes_matmul_reshape_rule one_reshape_matmul_reshape_rule
cast_constant_of_shape_rule cast_constant_of_shape_without_value_rule
collapse_slice_rule collapse_slice2_rule
materialize_reshape_shape_rule
min_min_rule max_max_rule min_max_rule max_min_rule
successive_clip_relu_rule successive_relu_clip_rule successive_relu_rule successive_clip_rule
cast_cast_rule no_op_cast_rule no_op_expand_rule flatten_to_reshape_rule reshape_reshape_rule no_op_transpose_rule
transpose_transpose_rule unsqueeze_unsqueeze_rule squeeze_reshape_1d_rule
no_op_dynamic_scatter_nd_rule no_op_static_scatter_nd_rule
normalize_pad_format_conv_rule normalize_pad_format_conv_integer_rule
fuse_pad_into_conv_rule fuse_pad_into_conv_integer_rule
fuse_batchnorm_into_conv_rule fuse_batchnorm_into_conv_transpose_rule fuse_batchnorm_into_gemm_rule
remove_optional_bias_from_conv_rule remove_optional_bias_from_conv_transpose_rule
remove_optional_bias_from_qlinear_conv_rule remove_optional_bias_from_gemm_rule"""


def simplify(model: ir.Model) -> None:
    """Fold constants, remove what computes nothing, and join what one operator computes, in place."""
    from onnxscript import optimizer

    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        results = [
            optimizer.fold_constants(model, onnx_shape_inference=True),
            _rewriting()(model),
            passes.RemoveUnusedNodesPass()(model),
            passes.RemoveUnusedFunctionsPass()(model),  # type: ignore[no-untyped-call]
            passes.RemoveUnusedOpsetsPass()(model),
        ]
        if not any(result.modified for result in results):
            break
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


@functools.cache
def _rewriting() -> Any:
    from onnxscript import rewriter
    from onnxscript.rewriter.rules import common

    found = {name: getattr(common, name) for name in (*_COMMUTE, *_RULES.split()) if hasattr(common, name)}
    both_ways = [rule for name in _COMMUTE if name in found for rule in found.pop(name).commute()]
    return rewriter.RewritePass([*both_ways, *found.values()])
