"""The program that is killed, resumed and run in several processes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parent / "program.py"


@pytest.fixture(scope="session")
def program() -> ModuleType:
    """`program.py` as a module; its file is `program.__file__`."""
    spec = importlib.util.spec_from_file_location("engine_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_program"] = module
    spec.loader.exec_module(module)
    return module
