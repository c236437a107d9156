"""The clock of operations whose target is time: networks as ONNX files, timed against each other.

An export takes seconds, and a table of widths asks for dozens of networks that differ in the sizes of their tensors
alone. So the first is exported, and the others are its file with their tensors in the place of its own. Whether that is
their file is proven by comparing it with the network; where it is not, the network is exported as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from pydantic import PositiveInt
from torch import Tensor, nn

from lessen.core.contracts import Times
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.files import write_bytes
from lessen.core.scratch import scratch
from lessen.core.settings import settings
from lessen.core.tree import parts
from lessen.deploy.export import export_onnx, trace
from lessen.deploy.runtimes import OnnxRuntime, Program
from lessen.measure.evaluate import evaluating
from lessen.measure.timing import interleave
from lessen.measure.timings import FASTEST, Timings
from lessen.surgery.forms.places import bake


@settings
class FileClock:
    """Time networks as fp32 ONNX files in ONNX Runtime, round by round in shuffled order.

    On a busy machine there are no wall times to trust. The times are then CPU times, whose fastest twentieth still
    tells a wide network from a narrow one, and they come with a note that says so.

    Args:
        batch: Examples at a time.
        threads: How many threads each file gets.
        rounds: How many times each is timed; the time is that of the fastest twentieth.
    """

    batch: PositiveInt = 1
    threads: PositiveInt = 1
    rounds: Annotated[int, Ge(10)] = 100

    def times(self, networks: Sequence[nn.Module], inputs: Inputs) -> Times:
        """The time of each network on so many of these inputs.

        Raises:
            ExportError: a network cannot be written.
        """
        few = map_inputs(inputs, lambda value: value[torch.arange(self.batch) % len(value)].cpu())
        programs = self._programs(networks, few)
        runs = {str(number): partial(program, few) for number, program in enumerate(programs)}
        return self._trusted(interleave(runs, rounds=self.rounds, insist=True))

    def _trusted(self, timings: Timings) -> Times:
        """The fastest twentieth of the times that can be trusted, with a note where they are not what was asked for."""
        if timings.busy is None:
            return Times(milliseconds=tuple(map(timings.fastest_twentieth, timings.milliseconds)))
        on_cpu = self.threads == 1 and timings.cpu.keys() == timings.milliseconds.keys()
        taken = timings.cpu if on_cpu else timings.milliseconds
        what = "CPU times, which interruptions make less exact" if on_cpu else "times in which calls were interrupted"
        return Times(
            milliseconds=tuple(float(np.percentile(each, FASTEST)) for each in taken.values()),
            note=f"the machine was busy ({timings.busy}); widths were compared by {what}",
        )

    def says(self) -> str:
        """What is timed, for people."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"fp32 in ONNX Runtime, batch {self.batch}, {threads}"

    def _programs(self, networks: Sequence[nn.Module], inputs: Inputs) -> list[Program]:
        import onnx

        programs: list[Program] = []
        with scratch() as folder:
            first = _written(networks[0], inputs, folder / "first.onnx")
            written, other = onnx.load(first), folder / "other.onnx"
            _free_last_axes(written.graph)
            programs.append(OnnxRuntime().load(first, threads=self.threads))
            for network in networks[1:]:
                program = None
                if _put(written, network):
                    write_bytes(other, written.SerializeToString())
                    program = self._proven(other, network, inputs)
                if program is None:
                    program = OnnxRuntime().load(_written(network, inputs, other), threads=self.threads)
                programs.append(program)
        return programs

    def _proven(self, file: Path, network: nn.Module, inputs: Inputs) -> Program | None:
        """The loaded file if it computes what the network does."""
        with evaluating(network), torch.no_grad():
            wanted = parts(call(network, inputs))
        try:
            program = OnnxRuntime().load(file, threads=self.threads)
            found = parts(program(inputs))
        except Exception:  # noqa: BLE001  (ONNX Runtime's own classes; whatever it says, this is not the file)
            return None
        pairs = list(zip(found.values(), wanted.values(), strict=len(found) == len(wanted)))
        same = len(found) == len(wanted) and all(
            one.shape == other.shape and torch.allclose(one.float(), other.float().cpu(), rtol=1e-3, atol=1e-4)
            for one, other in pairs
        )
        return program if same else None


def _written(network: nn.Module, inputs: Inputs, path: Path) -> Path:
    """A network as a file for these inputs, with its tensors under their own names."""
    return export_onnx(network, inputs, path, optimize=False, program=trace(network, inputs, free=False))


def _free_last_axes(graph: Any) -> None:
    """Let every reshape to written sizes work out its last one from what comes in, as a flatten does."""
    constants = {node.output[0]: node.attribute[0] for node in graph.node if node.op_type == "Constant"}
    constants |= {each.name: each for each in graph.initializer}
    joined = {node.output[0]: list(node.input) for node in graph.node if node.op_type == "Concat"}
    for node in graph.node:
        if node.op_type == "Reshape":
            parts = joined.get(node.input[1], [node.input[1]])
            written = [size for part in parts if part in constants for size in _whole_numbers(constants[part])]
            if parts[-1] in constants and -1 not in written:
                _write_last(constants[parts[-1]], -1)


def _whole_numbers(constant: Any) -> list[int]:
    """What an initializer, or the attribute of a constant, holds."""
    from onnx import numpy_helper

    if hasattr(constant, "ints") and not constant.t.data_type:
        return list(constant.ints) or [constant.i]
    found: list[int] = numpy_helper.to_array(getattr(constant, "t", constant)).ravel().tolist()
    return found


def _write_last(constant: Any, value: int) -> None:
    from onnx import numpy_helper

    if hasattr(constant, "ints") and not constant.t.data_type:
        if constant.ints:
            constant.ints[-1] = value
        else:
            constant.i = value
        return
    tensor = getattr(constant, "t", constant)
    numbers = numpy_helper.to_array(tensor).copy()
    numbers.reshape(-1)[-1] = value
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def _put(written: Any, network: nn.Module) -> bool:
    """Write the tensors of a network over those of the same names in a file; False where names differ."""
    from onnx import numpy_helper

    state: dict[str, Tensor] = bake(network).state_dict()
    held = {each.name: each for each in written.graph.initializer}
    needed = {name for name, value in state.items() if value.is_floating_point()}
    if not needed <= held.keys():
        return False
    for name in needed:
        held[name].CopyFrom(numpy_helper.from_array(state[name].detach().cpu().contiguous().numpy(), name))
    return True
