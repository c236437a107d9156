"""Settings validate once, say what is wrong, and go to a file and back."""

import pytest
from pydantic import PositiveFloat

from lessen.core.errors import SettingError
from lessen.core.settings import decode, encode, settings


@settings
class Inner:
    temperature: PositiveFloat = 4.0


@settings
class Outer:
    inner: Inner = Inner()
    names: tuple[str, ...] = ()


KNOWN = {"Inner": Inner, "Outer": Outer}


def test_there_and_back() -> None:
    outer = Outer(inner=Inner(temperature=2), names=("a", "b"))
    assert encode(outer) == {"Outer": {"inner": {"Inner": {"temperature": 2.0}}, "names": ["a", "b"]}}
    assert decode(encode(outer), KNOWN) == outer
    assert decode(encode([outer, None, {"x": 1}]), KNOWN) == [outer, None, {"x": 1}]
    assert eval(repr(outer)) == outer
    assert hash(outer) == hash(Outer(inner=Inner(temperature=2), names=("a", "b")))


def test_errors_say_what_came_and_what_was_expected() -> None:
    with pytest.raises(SettingError, match=r"Inner: temperature: got -1, but it should be greater than 0"):
        Inner(temperature=-1)
    with pytest.raises(SettingError, match=r"Inner has no setting 'temprature': did you mean 'temperature'"):
        Inner(temprature=1)
    with pytest.raises(SettingError, match=r"There is no 'Iner': did you mean 'Inner'"):
        decode({"Iner": {}}, KNOWN)
    with pytest.raises(SettingError, match="cannot be written"):
        encode(object())


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Inner().temperature = 3
