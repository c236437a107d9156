"""What of a network must be stored: its state, where the network itself sees less than the state says, made simpler.

Weights that a network only ever sees rounded may be stored rounded. This is read from the forms of its parameters, not
from what was done to it. `load_state_dict` with what comes out gives the same outputs, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lessen.surgery.forms.base import Form
from lessen.surgery.forms.places import Forms, holders, places
from lessen.surgery.forms.registering import forms_of, stored
from lessen.surgery.packing import Known


def stored_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Known]]:
    """The tensors of a network as they are to be stored, and what is known of them, by their names in its state."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    known: dict[str, Known] = {}

    def simplify(name: str, form: Form) -> None:
        if name in state:
            state[name], told = form.simpler(state[name])
            known[name] = _joined(known.get(name, Known()), told)

    for path, module, last in places(model, by_every_name=True):
        name, forms = full_name(path, last), forms_of(module, last)
        for form in forms:
            simplify(f"{name}{forms[0].ending}", form)
            known |= form.known(name)
    for name, form in _held(model).items():
        simplify(name, form)
    return state, known


def file_widths(model: nn.Module) -> dict[str, int]:
    """The bits of a number of each parameter in an ONNX or OpenVINO file of the network, by name; tied ones by each."""
    found: dict[str, int] = {}
    forms = Forms(model)
    for path, module, last in places(model, by_every_name=True):
        tensor = getattr(module, last)
        if tensor is not None and not forms.inside(path):
            bits = 8 * tensor.element_size()
            for form in forms.at(path, last):
                bits = form.file_bits(bits)
            found[full_name(path, last)] = bits
    return found


def said_anew(rows: Sequence[Mapping[str, str]], model: nn.Module, *, by: str) -> list[dict[str, str]]:
    """What plans say is stored, once a later operation has changed the network: true of the files that are written.

    A row whose parameter now takes other bits says so, and since when; one whose parameter is gone claims nothing.

    Args:
        rows: Of plans (`Plan.describe`); they are not changed.
        model: The network as it is now.
        by: The later operation, for people.
    """
    widths, said = file_widths(model), list[dict[str, str]]()
    for row in map(dict, rows):
        if "stored" in row:
            name = row["module"]
            own = [bits for key, bits in widths.items() if key.rpartition(".")[0] == name and not key.endswith("bias")]
            now = widths.get(name, min(own, default=None))
            if now is None:
                del row["stored"]
                row["after"] += f"; replaced by {by}"
            elif str(now) != row["stored"]:
                row["stored"] = str(now)
                row["after"] += f"; {now} bits in a file since {by}"
        said.append(row)
    return said


def put_kept(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give the forms of a network the places of its weights that were stored, in place."""
    for path, module, last in places(model):
        name = full_name(path, last)
        if name in kept:
            for form in forms_of(module, last):
                form.put_kept(kept[name])


def full_name(path: str, last: str) -> str:
    """The name of a parameter in a network, from that of its module and its own."""
    return f"{path}.{last}" if path else last


def _held(model: nn.Module) -> dict[str, Form]:
    """The form of each weight that holders store in one way wherever it occurs, by every name in the state.

    Weights whose own forms store something else are left out: holders round what these give.
    """
    if not holders(model):
        return {}
    forms, places_of = Forms(model), dict[int, list[tuple[str, list[Form]]]]()
    for path, module, last in places(model, by_every_name=True):
        own = forms_of(module, last)
        if getattr(module, last) is not None and all(form.of_weights for form in own):
            name = full_name(path, last) + (own[0].ending if own else "")
            places_of.setdefault(id(stored(module, last)), []).append((name, forms.held(path, last)))
    found: dict[str, Form] = {}
    for same in places_of.values():
        first = next(iter(same[0][1]), None)
        if first is not None and all(len(held) == 1 and first.same(held[0]) for _, held in same):
            found |= {name: first for name, _ in same}
    return found


def _joined(one: Known, other: Known) -> Known:
    told = {name: value for name, value in vars(other).items() if value is not None}
    return dataclasses.replace(one, **told)
