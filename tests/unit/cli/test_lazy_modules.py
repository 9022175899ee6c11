"""Stand-ins for seldom used modules: they provide the used attributes, and load the real module for others."""

import subprocess
import sys
import textwrap

import pytest

from edge_agent.cli import PYDANTIC_PLUGINS, stand_in


def run(code: str) -> str:
    """Return the output of code in a process that has the stand-ins."""
    code = "from edge_agent.cli import *\ninstall_stand_ins()\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def name():
    """The name of a module of the standard library that no test needs; it is not loaded."""
    loaded = sys.modules.pop("colorsys", None)
    yield "colorsys"
    sys.modules.pop("colorsys", None)
    if loaded:
        sys.modules["colorsys"] = loaded


def test_stand_in_loads_its_module_for_other_attributes(name):
    """A stand-in returns the given attributes; the first use of another one loads the module, which then replaces the
    stand-in."""
    stand_in(name, ONE_THIRD="ours")
    import colorsys  # noqa: PLC0415

    assert "ours" == colorsys.ONE_THIRD
    assert (0.0, 0.0, 0.5) == colorsys.rgb_to_hsv(0.5, 0.5, 0.5)
    assert 1 / 3 == sys.modules[name].ONE_THIRD


def test_loaded_module_is_not_replaced_by_a_stand_in(name):
    """`stand_in` leaves a module that is loaded already in place."""
    import colorsys  # noqa: PLC0415

    stand_in(name, ONE_THIRD="ours")
    assert sys.modules[name] is colorsys


def test_stand_in_for_a_missing_module_raises_import_error():
    """The first use of a stand-in whose module does not exist raises an ImportError with its name, so a changed library
    is noticed."""
    stand_in("edge_agent.no_such_module")
    try:
        with pytest.raises(ImportError, match="no_such_module"):
            _ = sys.modules["edge_agent.no_such_module"].anything
        assert "edge_agent.no_such_module" in sys.modules
    finally:
        del sys.modules["edge_agent.no_such_module"]


def test_messages_and_models_work_with_the_stand_ins():
    """Protobuf messages are read and written and pydantic models are validated, and neither loads a module that has a
    stand-in."""
    said = run("""
        import sys
        from pydantic import BaseModel, SecretStr
        from edge_agent.v1 import inference_pb2 as pb
        message = pb.ClassifyRequest.FromString(pb.ClassifyRequest(task="a").SerializeToString())
        class Model(BaseModel):
            number: int
            secret: SecretStr = SecretStr("a")
        print(message.task, str(message).strip(), Model(number="3").number)
        print(*(sys.modules[name].__spec__ for name in (PROTOBUF_IN_PYTHON, PYDANTIC_PLUGINS, SECRETS)))
    """)
    assert 'a task: "a" 3\nNone None None' == said


def test_library_gets_attributes_that_a_stand_in_lacks():
    """A library that uses an attribute which a stand-in lacks gets it from the real module."""
    said = run("""
        from google.protobuf.internal import python_message
        from pydantic.plugin import _loader
        from pydantic import SecretStr
        equal = SecretStr("a") == SecretStr("a")
        print(python_message.GeneratedProtocolMessageType.__name__, _loader.PYDANTIC_ENTRY_POINT_GROUP, equal)
    """)
    assert "GeneratedProtocolMessageType pydantic True" == said


def test_stand_in_returns_no_pydantic_plugins():
    """The stand-in for pydantic's plugin loader returns no plugins."""
    assert "()" == run(f"from sys import modules; print(modules['{PYDANTIC_PLUGINS}'].get_plugins())")
