"""Taps see what a module computes, whatever stands around it."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from lessen.core import settings
from lessen.core.errors import ShapeError, TapError
from lessen.core.usable import unwrap
from lessen.surgery.taps import Recorder, Tap, as_tap, capture, tensor_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(3, 4),
            norm=nn.BatchNorm1d(4),
            relu=nn.ReLU(inplace=True),
            inner=nn.Sequential(OrderedDict(second=nn.Linear(4, 4))),
        )
    ).eval()


# torch.compile looks at .grad of tensors that have none, and hides its own warning only while warnings are not errors.
compiles = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
X = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, 3.0]])


def by_hand(model: nn.Sequential, upto: str) -> Tensor:
    value = X
    for name, module in copy.deepcopy(model).named_children():
        value = module(value)
        if name == upto:
            return value.clone()
    return value


def test_a_tap_before_an_inplace_activation_sees_what_was_there_before() -> None:
    model, tap = network(), Tap(path="norm")
    expected = by_hand(model, "norm")
    with capture(model, [tap]) as seen:
        model(X)
    assert bool((expected < 0).any())
    torch.testing.assert_close(seen[tap], expected)


def test_a_recorder_knows_which_taps_are_written_over_and_copies_only_these() -> None:
    model, taps = network(), [Tap(path="norm"), Tap(path="first"), Tap(path="relu", side="input")]
    recorder = Recorder(model, taps)
    recorder.begin()
    model(X)
    recorder.end()
    assert torch.equal(recorder.seen[taps[0]], by_hand(model, "relu"))  # the wrong value: it was written over
    assert recorder.written_over() == {taps[0], taps[2]}
    recorder.copies |= recorder.written_over()
    recorder.begin()
    model(X)
    recorder.end()
    torch.testing.assert_close(recorder.seen[taps[0]], by_hand(model, "norm"))
    torch.testing.assert_close(recorder.seen[taps[2]], by_hand(model, "norm"))
    assert recorder.written_over() == set()
    recorder.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_copy_keeps_the_gradient_right() -> None:
    model, tap = network(), Tap(path="norm")
    with capture(model, [tap]) as seen:
        model(X)
    seen[tap].sum().backward()
    assert model.first.weight.grad is not None
    reference = network()
    by = reference.norm(reference.first(X)).sum()
    by.backward()
    torch.testing.assert_close(model.first.weight.grad, reference.first.weight.grad)


def test_the_input_of_a_module() -> None:
    model, tap = network(), Tap(path="inner.second", side="input")
    with capture(model, [tap]) as seen:
        model(X)
    torch.testing.assert_close(seen[tap], by_hand(model, "relu"))


def test_the_output_of_the_whole() -> None:
    model = network()
    with capture(model, [Tap()]) as seen:
        out = model(X)
    torch.testing.assert_close(seen[Tap()], out)


class Wrapped(nn.Module):
    """What DistributedDataParallel looks like from outside, without a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


@compiles
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["parallel", "compile"]
)
def test_taps_survive_wrapping(wrap: object) -> None:
    model = network()
    wrapped, tap = wrap(model), Tap(path="inner.second")
    with capture(wrapped, [tap]) as seen:
        out = wrapped(X)
    assert unwrap(wrapped) is model
    torch.testing.assert_close(seen[tap], out)


@compiles
def test_taps_survive_a_network_that_was_compiled_and_called_before() -> None:
    model = network()
    compiled, tap = torch.compile(model, backend="eager"), Tap(path="inner.second")
    compiled(X)
    with capture(compiled, [tap]) as seen:
        out = compiled(X)
    torch.testing.assert_close(seen[tap], out)


@compiles
def test_taps_survive_a_wrapped_part_and_paths_that_name_the_wrapper() -> None:
    model = network()
    model.inner = torch.compile(model.inner, backend="eager")
    for path in ("inner.second", "inner._orig_mod.second"):
        with capture(model, [Tap(path=path)]) as seen:
            out = model(X)
        torch.testing.assert_close(seen[Tap(path=path)], out)
    plain = network()
    wrapped = Wrapped(plain)
    with capture(wrapped, [Tap(path="module.first")]) as seen:
        wrapped(X)
    torch.testing.assert_close(seen[Tap(path="module.first")], plain.first(X))


def test_a_shared_module_is_told_apart_by_its_call() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(OrderedDict(a=shared, relu=nn.ReLU(), b=shared))
    with pytest.raises(TapError, match="2 times"), capture(model, [Tap(path="a")]):
        model(X)
    first, last = Tap(path="a", call=0), Tap(path="b", call=-1)
    with capture(model, [first, last]) as seen:
        out = model(X)
    torch.testing.assert_close(seen[first], shared(X))
    torch.testing.assert_close(seen[last], out)
    with pytest.raises(TapError, match="asks for call 5"), capture(model, [Tap(path="a", call=5)]):
        model(X)


def test_an_unknown_tap_lists_close_names() -> None:
    with pytest.raises(TapError, match=r"'iner.secnd'.*inner\.second"), capture(network(), [Tap(path="iner.secnd")]):
        pass


def test_a_module_that_is_not_called_is_an_error() -> None:
    model = network()
    holder = nn.ModuleDict({"used": model, "spare": nn.Identity()})
    with pytest.raises(TapError, match="was not called"), capture(holder, [Tap(path="spare")]):
        holder["used"](X)


def test_a_recomputation_in_the_backward_pass_is_not_a_second_call() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    model = Checkpointed()
    recorder = Recorder(model, [Tap(path="inner")])
    recorder.begin()
    out = model(X.clone().requires_grad_())
    recorder.end()
    out.sum().backward()
    recorder.check()
    recorder.close()


def test_what_stands_for_a_models_output() -> None:
    @settings
    class Output:
        logits: object = None

    assert torch.equal(tensor_of((X, None)), X)
    assert torch.equal(tensor_of({"loss": None, "logits": X}), X)
    assert torch.equal(tensor_of(Output(logits=X)), X)
    with pytest.raises(ShapeError, match="NoneType"):
        tensor_of(None)


def test_words_of_a_tap() -> None:
    assert as_tap("a") == Tap(path="a")
    assert [str(t) for t in (Tap(), Tap(path="a", side="input"), Tap(path="a", call=1))] == ["", "a.input", "a[1]"]
