"""What is found directly under `lessen`."""

import pytest

import lessen


def test_all_that_an_editor_completes_is_there() -> None:
    names = dir(lessen)
    assert {"compress", "operations", "sweep", "__version__"} <= set(names)
    assert set(lessen.__all__) <= set(names)
    assert all(getattr(lessen, name) is not None for name in names)


def test_a_name_that_lives_elsewhere_is_told() -> None:
    with pytest.raises(AttributeError, match=r"Write: from lessen\.operations import PruneChannels"):
        lessen.PruneChannels  # noqa: B018
    with pytest.raises(AttributeError, match="compress"):
        lessen.compres  # noqa: B018
