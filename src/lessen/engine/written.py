"""Sequences that a teacher has written, once, as training examples: sequence-level distillation.

Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016, arXiv:1606.07947, section 3.2. There the teacher's most
probable sequence is looked for by beam search; here it is sampled, or at temperature 0 written greedily.

Shapes: N sequences, L positions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lessen.core.data import ArrayExamples, Examples, Inputs, batches, examples_digest, map_inputs
from lessen.core.errors import DataError, RunError
from lessen.core.files import write_tensors
from lessen.core.settings import encode
from lessen.graph.on_policy import Writing, rewrite
from lessen.surgery.digest import digest

_FILE = "sequences.safetensors"


def written_by(
    teacher: nn.Module,
    examples: Examples,
    folder: Path | str,
    *,
    writing: Writing | None = None,
    seed: int = 0,
    batch: int = 64,
    device: torch.device | str | None = None,
) -> ArrayExamples:
    """The examples with everything behind their prompts written by a teacher; its labels are what it wrote.

    It is written once, and read from the folder afterwards. A sequence costs the teacher a forward pass for each of its
    tokens (nothing is kept between them). The student then learns with `OverTokens(objective=CrossEntropy())`, also
    where the teacher's probabilities are not to be had.

    Args:
        teacher: A causal language model: tokens (N, L), or the mapping that the data gives, to logits (N, L, V).
        examples: Sequences with labels where their tokens stand; -100 in the prompt. See `Writing.prompt` for none.
        folder: Where they are kept, for this teacher, these examples, settings and seed alone.
        writing: How the teacher goes on.
        seed: For what is drawn; each sequence follows from the seed and its number.
        batch: Sequences that are written at a time; it does not change them.
        device: Where to compute. None: where the teacher is.

    Raises:
        DataError: the examples are no sequences of tokens, or it is not known where their prompts end.
        RunError: the folder holds what was written by another teacher or from other examples, or cannot be written.
    """
    writing, path = writing or Writing(), Path(folder) / _FILE
    about = {
        "teacher": f"{type(teacher).__module__}.{type(teacher).__qualname__} {digest(teacher)}",
        "examples": examples_digest(examples),
        "writing": encode(writing),
        "seed": seed,
    }
    if path.exists():
        return _read(path, about)
    parameter = next(teacher.parameters(), None)
    place = device or (parameter.device if parameter is not None else "cpu")
    inputs, labels = [], []
    teacher.to(place)
    for given in batches(examples, size=batch):
        on = given.to(place)
        new = rewrite(teacher, on, torch.arange(len(on), device=on.index.device), writing, seed=seed)
        assert new.labels is not None
        inputs.append(map_inputs(new.inputs, lambda value: value.cpu()))
        labels.append(new.labels.cpu())
    if not labels:
        raise DataError("There are no examples to go on with. Give at least one sequence.")
    tensors = {f"inputs.{name}": torch.cat([_named(part)[name] for part in inputs]) for name in _named(inputs[0])}
    tensors["labels"] = torch.cat(labels)
    write_tensors(path, tensors, {"about": json.dumps(about, sort_keys=True)})
    return _examples(tensors)


def _read(path: Path, about: dict[str, Any]) -> ArrayExamples:
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise RunError(f"{path} holds no sequences of lessen ({error}). Choose another folder.") from error
    for name, value in about.items():
        if found.get(name) != value:
            raise RunError(
                f"The sequences in {path.parent} were written with another setting of {name!r} "
                f"({found.get(name)!r}, not {value!r}). Choose another folder, or remove this one."
            )
    return _examples(tensors)


def _examples(tensors: dict[str, Tensor]) -> ArrayExamples:
    parts = {name.removeprefix("inputs."): value for name, value in tensors.items() if name != "labels"}
    return ArrayExamples(parts.get("", parts), tensors["labels"])


def _named(inputs: Inputs) -> dict[str, Tensor]:
    assert not isinstance(inputs, tuple)
    return inputs if isinstance(inputs, dict) else {"": inputs}
