"""The laws of operations on every way to round weights; those of the plain way stand with the other operations."""

from lessen.operations import Awq, BFloat16, Gptq, Half, Hqq, QuantizeWeights
from lessen.testing import EXAMPLES, OperationLaws

FEW = {name: EXAMPLES[name] for name in ("convolutions", "attention")}


class TestGptq(OperationLaws):
    networks = FEW
    settings = (QuantizeWeights(bits=4, group=16, method=Gptq(by_activation=True)),)


class TestAwq(OperationLaws):
    networks = FEW
    settings = (QuantizeWeights(bits=4, group=16, method=Awq()),)


class TestHqq(OperationLaws):
    networks = {"shared": EXAMPLES["shared"]}
    settings = (QuantizeWeights(bits=4, group=None, method=Hqq(), symmetric=True),)


class TestBrainHalf(OperationLaws):
    networks = {"convolutions": EXAMPLES["convolutions"]}
    settings = (Half(kind=BFloat16()),)

    @classmethod
    def save(cls, model, network, path):  # type: ignore[no-untyped-def]
        """What is small is the compressed file."""
        from lessen.pipeline import pack

        del network
        pack(model, path)


del OperationLaws
