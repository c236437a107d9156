"""Objectives, normalisers, bridges and taps of direct features, as a recipe writes them."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lessen.core.documents import Loader
from lessen.core.errors import RecipeError
from lessen.knowledge import AsItIs, BottleneckBridge, NormalizedHint, OrthogonalBridge, SimilarityAttention, Whiten
from lessen.recipe import read_recipe, schema, write_recipe
from lessen.schemes import Tap

TEXT = """
network: {build: "zoo:residual"}
data: Digits
steps:
  - Staged:
      hints:
        - At: {tap: layer1, objective: {ActivationBoundary: {margin: 0.5}}, bridge: AutoBridge}
      hint_epochs: 1
  - Offline:
      knowledge:
        - At:
            tap: layer1
            objective: {NormalizedHint: {student: AsItIs, teacher: {Whiten: {shrink: 0.01}}, distance: HuberDistance}}
            bridge: OrthogonalBridge
        - At:
            tap: {Taps: {of: [layer1, layer2]}}
            objective: {OverLayers: {objective: HierarchicalContext, pairing: SimilarityAttention}}
        - At: {tap: [{Tap: {path: pool, side: input}}, layer3], objective: NormAndDirection, bridge: AutoBridge}
        - At: {tap: [layer2, ""], objective: {OneForAll: {power: 1.2}}, bridge: AutoBridge}
        - At: {tap: layer1, objective: {Overhaul: {margin: [-0.5, -0.2]}}}
        - At: {tap: layer3, objective: {MaskedGeneration: {distance: LogSumDistance}}, bridge: BottleneckBridge}
        - At: {tap: layer3, objective: {VariationalInformation: {variance: 2}}}
"""


def test_direct_features_are_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    made = read_recipe(file)
    jsonschema.Draft202012Validator(schema()).validate(yaml.load(TEXT, Loader))
    staged, offline = made.steps
    lessons: tuple[Any, ...] = offline.knowledge  # type: ignore[union-attr]
    assert staged.hints[0].objective.margin == 0.5  # type: ignore[union-attr]
    assert isinstance(lessons[0].objective, NormalizedHint)
    assert (lessons[0].objective.student, lessons[0].objective.teacher) == (AsItIs(), Whiten(shrink=0.01))
    assert lessons[0].bridge == OrthogonalBridge()
    assert lessons[1].objective.pairing == SimilarityAttention()
    assert lessons[2].tap == (Tap(path="pool", side="input"), "layer3")
    assert lessons[5].bridge == BottleneckBridge()
    write_recipe(made, tmp_path / "whole.yaml")
    assert read_recipe(tmp_path / "whole.yaml") == made


def test_a_staged_scheme_without_hints_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT.split("  - Staged:")[0] + "  - Staged: {hints: []}\n")
    with pytest.raises(RecipeError, match="hints"):
        read_recipe(file)
