"""Does this network answer the question this data asks? Found out on a few examples, before anything long starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Data, Inputs, call, map_inputs
from lessen.core.errors import DataError, NetworkError, ShapeError
from lessen.core.tree import is_several, judged, listed, parts
from lessen.core.usable import precision_differs


def check_classes(network: nn.Module, data: Data, *, what: str = "The network") -> None:
    """Run two examples through a network, and one alone, and compare its outputs with the labels.

    The network is neither trained nor changed: it runs in eval mode, without gradient, and comes back in its mode.

    Args:
        network: Any; its outputs must be those of the task.
        data: What it runs on. Without a task only the number of classes is compared.
        what: What to call the network in an error.

    Raises:
        NetworkError: the network does not run on the inputs, returns no tensor, or several and `Data.output` does not
            say which one counts, returns NaN or infinity, or changes its inputs.
        DataError: it has another number of outputs than there are classes.
    """
    inputs = data.example(2)
    shown = map_inputs(inputs, lambda value: value.clone())
    returned = run_on(network, shown, what=what)
    output = judged_output(returned, data.output, what)
    for name, value in parts(returned).items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            place = f" in its output {name}" if name else ""
            raise NetworkError(
                f"{what} returns NaN or infinity{place} on the first examples of {data.name}. {_reason(network)} Such "
                "outputs cannot be measured or learned from."
            )
    if not _same(inputs, shown):
        raise NetworkError(
            f"{what} changes its inputs in place, so a student that runs next would see changed inputs. Let it work on "
            "a copy (x = x.clone()), or leave out inplace=True in its first layer."
        )
    run_on(network, data.example(1), what=what)
    if data.task is not None:
        _check_task(output, data, what)
        return
    if data.classes is None:
        return
    if output.ndim != 2 or output.shape[1] != len(data.classes):
        raise DataError(
            f"{what} returns shape {tuple(output.shape)} for 2 examples, but {data.name} has {len(data.classes)} "
            f"classes, so (2, {len(data.classes)}) was expected. Build the network with {len(data.classes)} outputs, "
            "or give the data it was trained for."
        )


def judged_output(returned: object, output: str | None, what: str) -> Tensor:
    """The output that is compared with labels and teacher.

    Raises:
        NetworkError: nothing says which one that is, or it is no tensor of floating-point numbers.
    """
    found = parts(returned)
    if not found:
        raise NetworkError(
            f"{what} returns a {type(returned).__name__} without a tensor in it; a tensor was expected, or a dict, a "
            "tuple or a dataclass of tensors."
        )
    if output is not None and not is_several(returned):
        raise NetworkError(
            f"{what} returns one tensor, which has no name, but output={output!r} was given. Leave output out."
        )
    try:
        value = judged(returned, output)
    except NetworkError as error:
        raise NetworkError(str(error).replace("The network", what, 1)) from error
    if not value.is_floating_point():
        raise NetworkError(
            f"{what} returns {value.dtype} where floating-point numbers were expected. {listed(found)} Name another "
            "with output=, or return the numbers that the answer is computed from."
        )
    return value


def _check_task(output: Tensor, data: Data, what: str) -> None:
    labels = data.train.fetch(torch.arange(min(2, len(data.train)))).labels
    if data.task is None or labels is None:
        return
    try:
        data.task.check(output.cpu(), labels)
    except (ShapeError, DataError) as error:
        raise type(error)(f"{what} does not fit {data.name}: {error}") from error


def _reason(network: nn.Module) -> str:
    """Where numbers that are not finite come from, as far as the state of the network says."""
    bad = [name for name, value in network.state_dict().items() if not _finite(value)]
    if bad:
        return f"Its tensors are not finite either, as {bad[0]}: load its weights again, or lower the learning rate."
    return "Its weights are finite: look at the scale of the inputs, and for a division by zero or a logarithm of it."


def _finite(value: object) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())


def _same(one: Inputs, other: Inputs) -> bool:
    values: list[Tensor] = []
    map_inputs(one, values.append)
    map_inputs(other, values.append)
    half = len(values) // 2
    return all(torch.equal(value, seen) for value, seen in zip(values[:half], values[half:], strict=True))


def run_on(network: nn.Module, inputs: Inputs, *, what: str) -> Any:
    """What a network returns for inputs, in eval mode and without gradients; it comes back in its mode.

    Raises:
        NetworkError: it does not run on them; the text names their shapes.
    """
    training = {name: module.training for name, module in network.named_modules()}
    network.eval()
    parameter = next(network.parameters(), None)
    placed = inputs if parameter is None else map_inputs(inputs, lambda value: value.to(parameter.device))
    try:
        with torch.inference_mode():
            answer: object = call(network, placed)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        if (differs := precision_differs(network, inputs)) is not None:
            raise NetworkError(f"{what} {differs}") from error
        shapes: list[str] = []
        map_inputs(
            inputs, lambda value: shapes.append(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
        )
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise NetworkError(
            f"{what} does not run on the inputs of the data, of shape {', '.join(shapes)}: {reason[0]} Check the "
            "number of channels and the size of the images it was built for, and that it runs on a batch of one."
        ) from error
    finally:
        for name, module in network.named_modules():
            module.training = training[name]
    return answer
