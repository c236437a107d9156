"""The fastest file that passed, the smallest of equals, and the smallest of all if nobody knows the times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from lessen.deploy import DeployedFile, OnnxRuntime, OpenVino
from lessen.deploy.recommend import recommend
from lessen.deploy.verify import Verified
from lessen.measure import Speed, Timings
from lessen.measure.disturbance import Conditions

ROUNDS = 30
PASSED = Verified(
    passed=True, reason="", max_difference=0.0, mean_difference=0.0, scale=1.0, agreement=None, metric=None,
    file_metric=None, network_metric=None, examples=1,
)  # fmt: skip


def files(rows: dict[str, tuple[float, int]], *, seed: int = 0, busy: str | None = None, **more: Any) -> Any:
    """Files by name with their milliseconds and bytes, each time with a noise of 2 %; `.xml` is another runtime's."""
    source, found, timed = np.random.default_rng(seed), [], {}
    for runtime in (OnnxRuntime(), OpenVino()):
        own = {name: row for name, row in rows.items() if name.endswith(runtime.suffix)}
        noise = {name: time * (1 + 0.02 * source.standard_normal(ROUNDS)) for name, (time, _) in own.items()}
        if own:
            timed[runtime.name] = Timings(noise, {}, {}, Conditions(busy=busy))
        found += [
            DeployedFile(
                name=name, path=Path(name), runtime=runtime, network=nn.Identity(), bytes=size,
                verified=PASSED, speed={1: Speed.of(timed[runtime.name], name)}, **more,
            )
            for name, (_, size) in own.items()
        ]  # fmt: skip
    return found, timed


@pytest.mark.parametrize("seed", range(8))
def test_of_equally_fast_files_the_smaller_one_whatever_the_noise(seed: int) -> None:
    """Before, the order of two equal files was decided by noise: with these seeds it comes out both ways."""
    given, timed = files({"large.onnx": (1.0, 400), "small.onnx": (1.0, 100), "slow.onnx": (2.0, 10)}, seed=seed)
    found = recommend(given, 1, timed)
    assert found is not None
    assert (found.file.name, found.because, found.equally_fast) == ("small.onnx", "fastest", ("large.onnx",))


def test_noise_alone_would_decide() -> None:
    first = {
        min(files({"large.onnx": (1.0, 400), "small.onnx": (1.0, 100)}, seed=seed)[0],
            key=lambda file: file.speed[1].latency.value).name
        for seed in range(8)
    }  # fmt: skip
    assert first == {"large.onnx", "small.onnx"}


def test_a_clearly_faster_file_is_recommended_even_if_it_is_larger() -> None:
    found = recommend(*_with_size({"large.onnx": (1.0, 400), "small.onnx": (1.2, 100)}))
    assert found is not None
    assert (found.file.name, found.because, found.equally_fast) == ("large.onnx", "fastest", ())


def test_files_of_two_runtimes_are_compared_by_their_medians() -> None:
    found = recommend(*_with_size({"large.onnx": (1.0, 400), "small.xml": (1.04, 100)}))
    assert found is not None
    assert found.file.name == "small.xml"
    found = recommend(*_with_size({"large.onnx": (1.0, 400), "small.xml": (1.2, 100)}))
    assert found is not None
    assert found.file.name == "large.onnx"


def test_on_a_busy_machine_it_is_the_smallest_and_not_called_the_fastest() -> None:
    given, timed = files({"large.onnx": (1.0, 400), "small.onnx": (9.0, 100)}, busy="others")
    found = recommend(given, 1, timed)
    assert found is not None
    assert (found.file.name, found.because) == ("small.onnx", "smallest")


def test_what_did_not_pass_or_is_not_shipped_is_out() -> None:
    given, timed = files({"a.onnx": (1.0, 1)}, shipped=False)
    assert recommend(given, 1, timed) is None
    assert recommend([], 1, {}) is None


def _with_size(rows: dict[str, tuple[float, int]]) -> tuple[Any, int, Any]:
    given, timed = files(rows)
    return given, 1, timed
