"""Low rank: a layer becomes two thin ones, where that makes it smaller.

Denton et al., Exploiting linear structure within convolutional networks, NeurIPS 2014, arXiv:1404.0736. The mathematics
is in `lessen.operations.low_rank.factorization`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core import Card, Context, Where, check_where, matches, settings
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.ranges import Share
from lessen.core.seeds import seeded
from lessen.operations.low_rank.factorization import Channel, Matricization, factorized, matrix_of, rank_for_energy
from lessen.operations.parts.probe import irreplaceable
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import parametrised
from lessen.surgery.modules import get_module, set_modules
from lessen.surgery.plain import plain, plain_copy


@settings
class Factorized:
    """The plan of `LowRank`.

    Args:
        ranks: The rank of each layer that is factorised.
        scheme: How convolutions are split.
        left: What is left alone, and why.
        sizes: Parameters of each factorised layer before and after, for people.
    """

    ranks: dict[str, Annotated[int, Field(ge=1)]]
    scheme: Matricization = Channel()
    left: dict[str, str] = Field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network in which two layers in a row, `name.0` and `name.1`, replace each factorised one.

        Raises:
            PlanError: a layer is missing, is not a plain linear or convolution layer, or its rank is too large.
        """
        network = plain_copy(model)
        pairs: dict[str, nn.Module] = {}
        for path, rank in self.ranks.items():
            try:
                layer = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            if not isinstance(layer, nn.Linear | nn.Conv2d) or _unfit(layer):
                raise PlanError(
                    f"The plan does not belong to this network: {path} should be a plain linear or convolution layer, "
                    f"found {layer}."
                )
            if rank > min(matrix_of(layer, self.scheme).shape):
                raise PlanError(f"The plan does not belong to this network: {path}, {layer}, has no rank of {rank}.")
            with seeded(0):  # PyTorch draws the weights of new layers, which are about to be written over
                pair = factorized(layer, rank, self.scheme, values=values)
            if layer is network:
                return pair
            pairs[path] = pair
        set_modules(network, pairs)
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer."""
        rows: list[dict[str, Any]] = []
        for path, rank in self.ranks.items():
            before, after = self.sizes.get(path, ("?", "?"))
            rows.append(
                {
                    "module": path,
                    "edit": f"low rank, {type(self.scheme).__name__.lower()}",
                    "before": f"{before} weights",
                    "after": f"rank {rank}, {after} weights",
                }
            )
        rows += [{"module": path, "edit": "left alone", "before": why, "after": ""} for path, why in self.left.items()]
        return rows


@settings
class LowRank:
    """Factorise linear and convolution layers where that makes them smaller. Set one of `rank`, `energy` and `ratio`.

    Args:
        rank: The rank of every layer.
        energy: The share of the squared singular values that each layer keeps; each gets the rank it needs.
        ratio: The share of its weights that each layer keeps.
        scheme: How convolutions are split: `Channel()` into k x k and 1 x 1, `Spatial()` into k x 1 and 1 x k.
        where: Which modules; None for all.
        exclude: Which of these to leave alone; None for none.
    """

    rank: Annotated[int, Field(ge=1)] | None = None
    energy: Share | None = None
    ratio: Share | None = None
    scheme: Matricization = Channel()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / low rank",
        paper="arXiv:1404.0736; spatial: arXiv:1405.3866",
        says="A layer is replaced by two thin layers whose product is the closest of that rank.",
        costs="One more layer call for each layer: on a CPU a pair is faster only well below half the weights. Judge "
        "by measured time, not by multiply-adds.",
        fails_when="Singular values decay slowly, as in small, well-trained layers: the approximation is then poor, "
        "and training must repair it. The running statistics of later batch norms are not re-estimated.",
        differs="The approximation is closest in weights. The closest in outputs would need statistics of the inputs.",
    )

    @model_validator(mode="after")
    def _one(self) -> LowRank:
        given = [name for name in ("rank", "energy", "ratio") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of rank, energy and ratio, not {' and '.join(given) or 'none of them'}")
        return self

    @classmethod
    def neutral(cls) -> LowRank:
        return cls(energy=1.0)

    def plan(self, model: nn.Module, context: Context) -> Factorized:
        """Decide which layers are factorised, and their ranks.

        Raises:
            PlanError: `where` matches no linear or convolution layer, or there is none.
        """
        model = plain(model, context.inputs)
        owners = Owners(model)
        check_where(model, where=self.where, exclude=self.exclude)
        fixed = irreplaceable(model, (nn.Linear, nn.Conv2d), context.inputs)
        ranks: dict[str, int] = {}
        sizes: dict[str, tuple[int, int]] = {}
        left: dict[str, str] = {}
        layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        chosen = {path: layer for path, layer in layers.items() if matches(self.where, path, layer)}
        if not chosen and self.where is not None:
            raise PlanError(
                f"where={self.where!r} matches no linear or convolution layer; {did_you_mean(str(self.where), layers)}"
            )
        if not layers and self.energy != 1.0:
            raise PlanError("This network has no linear or convolution layer to factorise.")
        for path, layer in chosen.items():
            if self.exclude is not None and matches(self.exclude, path, layer):
                continue
            reason = _unfit(layer) or fixed.get(path) or _tied(owners, layer)
            if not reason:
                matrix = matrix_of(layer, self.scheme)
                rank, before, each = self._rank(matrix), matrix.numel(), sum(matrix.shape)
                if rank * each < before:
                    ranks[path], sizes[path] = rank, (before, rank * each)
                    continue
                reason = f"rank {rank} needs {rank * each} weights, it has {before}"
            left[path] = reason
        return Factorized(ranks=ranks, scheme=self.scheme, left=left, sizes=sizes)

    def _rank(self, matrix_OI: Tensor) -> int:
        rows, columns = int(matrix_OI.shape[0]), int(matrix_OI.shape[1])
        if self.rank is not None:
            return min(self.rank, rows, columns)
        if self.energy is not None:
            return rank_for_energy(matrix_OI, self.energy)
        assert self.ratio is not None
        return max(1, int(self.ratio * rows * columns / (rows + columns)))


def _unfit(layer: nn.Linear | nn.Conv2d) -> str:
    """Why this module cannot be factorised, or nothing."""
    if type(layer) is nn.Linear:
        return ""
    if type(layer) is nn.Conv2d:
        return "its channels are grouped" if layer.groups != 1 else ""
    if parametrised(layer):
        return "its weight is pruned or parametrised; factorise first"
    kind = type(layer)
    return f"{kind.__module__}.{kind.__qualname__} is not a plain PyTorch layer and may compute more than one"


def _tied(owners: Owners, layer: nn.Linear | nn.Conv2d) -> str:
    others = [path for path, owner, _ in owners.of(layer.weight) if owner is not layer]
    return f"its weight is also that of {others[0]}" if others else ""
