"""Our own networks: shapes, names, sizes, and that they learn."""

import pytest
import torch
from torch import nn

from lessen.core.errors import SettingError
from lessen.zoo import NETWORKS, lenet5, mlp, residual, transformer

CASES = {
    "residual": (residual(width=4, depth=8), (1, 8, 8)),
    "residual, pre-activation": (residual(width=4, depth=14, pre_activation=True, channels=3), (3, 12, 12)),
    "transformer": (transformer(image=8, patch=2, dim=16, depth=2, heads=2), (1, 8, 8)),
    "transformer, fused": (transformer(image=8, patch=4, dim=16, depth=1, heads=4, fused=True), (1, 8, 8)),
    "mlp": (mlp(inputs=64, hidden=(16, 8), batch_norm=True), (1, 8, 8)),
    "lenet5": (lenet5(image=16, channels=3), (3, 16, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns_and_examples_do_not_mix(case: str) -> None:
    network, shape = CASES[case]
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    network.train()(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    outputs = network(inputs)
    assert outputs.shape == (4, 10)
    torch.testing.assert_close(network(inputs[2:3]), outputs[2:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_network_can_be_exported(case: str) -> None:
    network, shape = CASES[case]
    inputs = torch.randn(2, *shape)
    made = torch.export.export(network.eval(), (inputs,)).module()
    torch.testing.assert_close(made(inputs), network(inputs))


def test_every_function_is_in_the_list_and_has_a_case() -> None:
    assert {case.split(",")[0] for case in CASES} | {"language_model"} == set(NETWORKS)


def test_depth_counts_layers() -> None:
    weights = [m for m in residual(width=2, depth=20).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = 2
    assert len(weights) - projections == 20
    assert {"layer1", "layer2", "layer3"} <= {name for name, _ in residual(width=2, depth=8).named_children()}


def test_fused_and_separate_attention_are_the_same_function() -> None:
    apart, fused = (transformer(image=8, patch=4, dim=8, depth=1, heads=2, fused=flag) for flag in (False, True))
    state = apart.state_dict()
    for kind in ("weight", "bias"):
        parts = [state.pop(f"blocks.0.attention.{name}.{kind}") for name in ("query", "key", "value")]
        state[f"blocks.0.attention.qkv.{kind}"] = torch.cat(parts)
    fused.load_state_dict(state)
    inputs = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(apart(inputs), fused(inputs))
    state["blocks.0.attention.qkv.bias"] = state["blocks.0.attention.qkv.bias"].roll(8)
    fused.load_state_dict(state)
    assert not torch.allclose(apart(inputs), fused(inputs), atol=1e-5)


def test_attention_is_softmax_of_products() -> None:
    network = transformer(image=4, patch=2, dim=6, depth=1, heads=2).double().blocks[0].attention
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    heads = []
    for k in range(2):
        query, key, value = (f(x)[0, :, 3 * k : 3 * k + 3] for f in (network.query, network.key, network.value))
        heads.append((query @ key.T / 3**0.5).softmax(1) @ value)
    torch.testing.assert_close(network(x)[0], network.out(torch.cat(heads, 1)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: residual(depth=10), "6 n"),
        (lambda: transformer(image=10, patch=4), "divide the image"),
        (lambda: transformer(dim=10, heads=4), "divide the features"),
    ],
)
def test_impossible_settings_are_named(make: object, match: str) -> None:
    with pytest.raises(SettingError, match=match):
        make()  # type: ignore[operator]
