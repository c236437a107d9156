"""The contract of stored forms: what lessen stores in the place of a parameter.

A form is a parametrisation of PyTorch: whoever reads `module.weight` gets the weight, so layers, attention and taps
stay what they were. `Form` is the contract. Each form is one file in this package, and one twin in
`lessen.deploy.forms` where files that run store it. Everything else asks the form, and knows none of them by its class.

A form whose owner is further out, as the grids of a quantized network, is held by a `Holder` and found by
`lessen.surgery.forms.places.Forms`. Anything that computes a parameter and is no `Form` belongs to the user's network;
`lessen.surgery.plain` folds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from lessen.surgery.packing import Known


class Form(nn.Module):
    """How a parameter is stored. Subclasses define `forward`; every other part has a default.

    `parametrise` or `places.store` registers a form, `remove_form` or `bake_form` takes it away. A form may have
    buffers, and parameters that learn with what is stored. In a state they are called `weight.codes` for a buffer
    `codes` of the form of `weight`, if they are persistent.

    Attributes:
        words: How a parameter is stored, for people; behind "it is stored".
        ending: What follows the parameter's name in a state for what is stored: "" for `weight`, ".steps" for
            `weight.steps`. If there are several forms, the first of them decides.
        of_weights: Whether what is stored is a weight for each weight, in its shape. If not, masks that are there are
            baked before the form is registered, and by default no other form may follow.
        linear: Whether each number that is read is a fixed multiple of the one that is stored: rows may be scaled.
        learns: Whether training moves what is stored.
        baked: Whether the form is removed before the network is traced, and what it makes becomes the parameter.
    """

    words: ClassVar[str] = "in a form of its own"
    ending: ClassVar[str] = ""
    of_weights: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    baked: ClassVar[bool] = False

    def forward(self, stored: Tensor) -> Tensor:
        """What is read, made from what is stored (or from what the form before makes of that)."""
        raise NotImplementedError

    def right_inverse(self, value: Tensor) -> Tensor:
        """What is stored when somebody assigns to the parameter. PyTorch calls it with what is stored as well.

        Raises:
            NetworkError: the form cannot store this value.
        """
        return value

    def keeps(self) -> Tensor | None:
        """Where a weight may differ from zero: boolean, in the parameter's shape; None if anywhere."""
        return None

    def put_kept(self, kept: Tensor) -> None:
        """Take over what `keeps` gave when the network was packed."""

    def settle(self, stored: Tensor) -> None:
        """Bring what is stored to what it will be in a state, in place; called before every state."""

    def bake(self, stored: Tensor) -> Tensor:
        """The plain parameter that gives what the form gives."""
        return self.forward(stored)

    def file_bits(self, bits: int) -> int:
        """The bits of a number of the parameter in a file that runs, given those that it would take without the form.

        The twin in `lessen.deploy.forms` writes the parameter so.
        """
        return bits

    def simpler(self, stored: Tensor) -> tuple[Tensor, Known]:
        """What a packed file may store instead, which the network cannot tell apart; and what is known of it."""
        return stored, Known(kept=self.keeps())

    def known(self, name: str) -> dict[str, Known]:
        """What packing may know of the form's own tensors, by their names in the state; `name` is the parameter's."""
        return {}

    def same(self, other: Form) -> bool:
        """Whether another form stores what this one does; asked of forms that are held by holders."""
        return self is other

    @classmethod
    def refused(cls, there: Form) -> str:
        """Why a parameter cannot also be stored so, given a form that is there; "" if it can."""
        return there.under_form()

    def under_form(self) -> str:
        """Why a parameter in this form cannot take a further form, or "". Asked for all but masks and 16 bits."""
        return "" if self.of_weights else f"it is already stored {self.words}"

    def under_mask(self) -> str:
        """Why a parameter in this form cannot be masked, or ""."""
        return "" if self.of_weights else f"its weights are stored {self.words}; prune first"

    def under_half(self) -> str:
        """Why a parameter in this form cannot be stored in 16 bits, or ""."""
        return "" if self.of_weights else f"it is stored {self.words}"

    def under_reset(self) -> str:
        """Why a parameter in this form cannot be initialised again, or ""."""
        return "" if self.of_weights else f"it is stored {self.words}, which cannot be drawn"


class Holder(nn.Module):
    """A child of a network that holds forms of the network's parameters, as the grids of a quantized network do."""

    def held(self, path: str, module: nn.Module, name: str) -> Iterator[Form]:
        """The forms of a parameter of the network, in the order in which they apply.

        Args:
            path: Of the module, in the network that the holder is a child of.
            module: The owner of the parameter.
            name: Of the parameter, as "weight".
        """
        yield from ()

    def own(self, module: nn.Module, name: str) -> Iterator[Form]:
        """The same for a parameter of the holder itself, or of a module in it."""
        yield from ()

    def make_still(self) -> None:
        """Let what the network gives for an example depend on that example alone, in place; for proofs."""
