"""One network pruned by lessen, and everything that is checked of it."""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from networks import Named, build, images, lived_in
from torch import Tensor, nn

from lessen.core import Context, decode, encode
from lessen.core.files import read_tensors, write_json, write_tensors
from lessen.deploy import export_onnx
from lessen.operations import PruneChannels, PrunedChannels
from lessen.operations.prune_channels import masked
from lessen.operations.prune_channels.verify import in_double

KEEP = 0.7
EQUAL = 1e-5
ONNX = 1e-4
NOTHING_ALIKE = 1e9
"""How far outputs are apart that have other shapes, or are not numbers."""


def prune(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """Plan, prune, compare with the masked network, write plan and weights; `result` is filled on the way."""
    start = time.process_time()
    network = lived_in(build(named), images(named, 8))
    x = images(named, 2, seed=1)
    result["seconds_build"] = round(time.process_time() - start, 1)
    plan = PruneChannels(keep=KEEP).plan(network, Context(inputs=x))
    result["seconds_plan"] = round(time.process_time() - start - result["seconds_build"], 1)
    small = plan.apply(network).eval()
    before, after = (sum(p.numel() for p in side.parameters()) for side in (network, small))
    result |= {"parameters": [before, after], "multiply_adds": list(plan.multiply_adds)}
    result |= {"groups": len(plan.kept), "left_out": plan.left_out, "pinned": plan.pinned}
    result["smaller"] = after < before and (before, after) == plan.parameters
    write_json(folder / "plan.json", encode(plan))
    write_tensors(folder / "weights.safetensors", small.state_dict())
    with torch.no_grad():
        wanted = small(x)
    write_tensors(folder / "wanted.safetensors", {"outputs": wanted})
    del small
    result |= _equal(in_double(network), plan, x.double())


def export(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """The pruned network in ONNX Runtime."""
    network, x = lived_in(build(named), images(named, 8)), images(named, 2, seed=1)
    small = _plan(folder).apply(network).eval()
    del network
    with torch.no_grad():
        wanted = small(x)
    result |= onnx(small, x, wanted, folder)


def _plan(folder: Path) -> PrunedChannels:
    return decode(json.loads((folder / "plan.json").read_text()), {"PrunedChannels": PrunedChannels})


def _equal(network: nn.Module, plan: PrunedChannels, x: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        whole, reference, found = network(x), masked(network, plan)(x), plan.apply(network)(x)
    return {
        "difference": relative(found, reference),
        "moved": relative(whole, reference),  # how much pruning changed at all
        "equal": relative(found, reference) <= EQUAL < relative(whole, reference),
    }


def onnx(small: nn.Module, x: Tensor, wanted: Tensor, folder: Path) -> dict[str, Any]:
    """Whether ONNX Runtime says of the exported network what PyTorch says."""
    import onnxruntime

    start = time.process_time()
    try:
        file = export_onnx(small, x, folder / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (found, *_) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    except Exception as error:  # noqa: BLE001  (whatever goes wrong is the finding)
        return {"onnx": False, "onnx_error": told(error)}
    off = relative(torch.from_numpy(found), wanted)
    return {"onnx": off <= ONNX, "onnx_difference": off, "seconds_onnx": round(time.process_time() - start, 1)}


def reload(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """In a process that has not seen the network: build it, replay the plan, load its weights strictly, run it."""
    network = _plan(folder).apply(build(named, seed=9), values=False)
    network.load_state_dict(state_for(network, folder), strict=True)
    with torch.no_grad():
        found = network.eval()(images(named, 2, seed=1))
    off = relative(found, read_tensors(folder / "wanted.safetensors")["outputs"])
    result |= {"reload": off <= EQUAL, "reload_difference": off}


def state_for(network: nn.Module, folder: Path) -> OrderedDict[str, Tensor]:
    """The weights that were written, with the versions of modules that MNASNet asks for and no file holds."""
    state = OrderedDict(read_tensors(folder / "weights.safetensors"))
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return state


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest entry."""
    if found.shape != wanted.shape:
        return NOTHING_ALIKE
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))
    return off if math.isfinite(off) else NOTHING_ALIKE


def told(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
