"""Registering forms: the one place that starts and ends the computing of a parameter, and its names in a state.

A module that is changed first gets a class of its own (`lessen.surgery.forms.classes`): copies are not affected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lessen.core.errors import NetworkError
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.classes import own_class

F = TypeVar("F", bound=Form)


def parametrise(module: nn.Module, name: str, form: Form, *, unsafe: bool = False) -> None:
    """Compute a parameter of a module from what is stored, in place; copies of the module are not affected.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        form: The computation. Further ones are applied after those already there.
        unsafe: Whether what is stored may have another shape than what is read.
    """
    if parametrize.is_parametrized(module):
        module.__class__ = own_class(type(module))
    parametrize.register_parametrization(module, name, form, unsafe=unsafe)
    if _write not in module._state_dict_hooks.values():
        module.register_state_dict_post_hook(_write)
        module.register_load_state_dict_pre_hook(_read)


def remove_form(module: nn.Module, name: str, form: Form) -> None:
    """Take one form from a parameter, in place. If it was the last, what is stored becomes the plain parameter."""
    forms = parametrised(module)[name]
    del forms[next(place for place, each in enumerate(forms) if each is form)]
    if not len(forms):
        unparametrise(module, name, forms.original)


def bake_form(module: nn.Module, name: str, form: Form) -> None:
    """Store what a form gives in the place of what it is given, and remove it, in place."""
    tensor = stored(module, name)
    with torch.no_grad():
        tensor.data = form.bake(tensor.data)
    remove_form(module, name, form)


def unparametrise(module: nn.Module, name: str, plain: Tensor) -> None:
    """Make a computed parameter or buffer an ordinary one again, in place; copies of the module are not affected.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        plain: The tensor that takes its place; a `nn.Parameter` becomes a parameter, any other tensor a buffer.
    """
    lists: Any = module._modules["parametrizations"]
    del lists[name]
    module.__class__ = own_class(type(module), without=name)
    if not len(lists):
        del module._modules["parametrizations"]
    if isinstance(plain, nn.Parameter):
        module.register_parameter(name, plain)
    else:
        module.register_buffer(name, plain)


def parametrised(module: nn.Module) -> dict[str, Any]:
    """The computed parameters of a module: the `ParametrizationList` of each, by its name."""
    found: Any = module._modules.get("parametrizations") if parametrize.is_parametrized(module) else None
    return {} if found is None else dict(found.items())


def forms_of(module: nn.Module, name: str) -> list[Form]:
    """The forms that lessen stores a parameter in, in the order in which they apply; empty for a plain one."""
    return [form for form in parametrised(module).get(name, ()) if isinstance(form, Form)]


def form_of(module: nn.Module, name: str, kind: type[F]) -> F | None:
    """The form of one kind that a parameter is stored in, or None. For what belongs to that kind alone."""
    return next((form for form in forms_of(module, name) if isinstance(form, kind)), None)


def is_list(module: nn.Module) -> bool:
    """Whether a module only holds what computes a parameter of another one; a walk over layers skips it."""
    return isinstance(module, parametrize.ParametrizationList)


def stored(module: nn.Module, name: str) -> Tensor:
    """The parameter as the optimizer sees it, behind whatever computes from it.

    Raises:
        NetworkError: it is computed from several tensors.
    """
    forms = parametrised(module).get(name)
    tensor: Tensor | None = getattr(module, name) if forms is None else getattr(forms, "original", None)
    if tensor is None:
        kinds = ", ".join(type(form).__name__ for form in forms or ())
        raise NetworkError(
            f"{name} of a {type(module).__name__} is computed from several tensors ({kinds}). "
            "Fold it first: lessen.surgery.plain.plain(network)."
        )
    return tensor


def kept_weights(module: nn.Module, name: str) -> Tensor | None:
    """Where a weight of a parameter may differ from zero, boolean in its shape; None if anywhere."""
    found = None
    for form in forms_of(module, name):
        kept = form.keeps()
        if kept is not None:
            found = kept if found is None else found & kept.to(found.device)
    return found


def refusal(forms: Sequence[Form], kind: type[Form]) -> str:
    """Why a parameter in these forms cannot also be stored in a further one, or ""."""
    return next((why for form in forms if (why := kind.refused(form))), "")


def check_refusal(module: nn.Module, name: str, kind: type[Form]) -> None:
    """Whether a parameter of a module can take a further form.

    Raises:
        NetworkError: it cannot; the text says why.
    """
    why = refusal(forms_of(module, name), kind)
    if why:
        raise NetworkError(f"{name} of a {type(module).__name__} cannot be stored {kind.words}: {why}.")


def _names(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """What PyTorch calls the tensors behind the parameters of a module in a state, and what lessen does.

    They come kind by kind, as a state of earlier versions has them: files are the same to the last byte.
    """
    ours: dict[str, list[tuple[int, Form]]] = {}
    for name, forms in parametrised(module).items():
        ours[name] = [(place, form) for place, form in enumerate(forms) if isinstance(form, Form)]
    for kind in dict.fromkeys(type(form) for own in ours.values() for _, form in own):
        for name, own in ours.items():
            for place, form in own:
                if type(form) is kind:
                    yield f"{prefix}parametrizations.{name}.original", f"{prefix}{name}{own[0][1].ending}"
                    for each in (*form._parameters, *form._buffers):
                        yield f"{prefix}parametrizations.{name}.{place}.{each}", f"{prefix}{name}.{each}"


def _write(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for name, forms in parametrised(module).items():
        if hasattr(forms, "original"):
            for form in forms_of(module, name):
                form.settle(forms.original)
    for long, short in _names(module, prefix):
        if long in state:
            state[short] = state.pop(long)


def _read(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for long, short in _names(module, prefix):
        if short in state:
            state[long] = state.pop(short)
