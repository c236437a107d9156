"""A language model sees what stands before, and nothing of what comes."""

import pytest
import torch

from lessen.core.errors import SettingError
from lessen.zoo import build, language_model, transformer


def test_what_comes_later_is_not_seen() -> None:
    network = language_model(vocabulary=7, length=6, dim=8, heads=2).eval()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    out = network(tokens)
    for place in range(6):
        other = tokens.clone()
        other[0, place] = 0
        moved = (network(other) - out).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [later >= place for later in range(6)]
        torch.testing.assert_close(network(tokens[:, : place + 1]), out[:, : place + 1], atol=1e-5, rtol=1e-4)
    # Planted: the attention of the image transformer sees all.
    images = transformer(image=4, patch=2, dim=8, heads=2).eval()
    assert not any(block.attention.causal for block in images.blocks)
    for block in network.blocks:
        block.attention.causal = False
    assert not torch.allclose(network(tokens[:, :3]), network(tokens)[:, :3], atol=1e-4)


def test_every_parameter_learns_and_the_network_can_be_had_by_name() -> None:
    network = build("zoo:language_model", vocabulary=7, length=6, dim=8, heads=2)
    network(torch.arange(6).view(1, 6)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(SettingError, match="heads must divide"):
        language_model(dim=6, heads=4)


def test_it_can_be_exported() -> None:
    network, tokens = language_model(vocabulary=7, length=6, dim=8, heads=2).eval(), torch.arange(6).view(1, 6)
    made = torch.export.export(network, (tokens,)).module()
    torch.testing.assert_close(made(tokens), network(tokens))
