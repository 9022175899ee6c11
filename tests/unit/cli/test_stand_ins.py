"""Stand-ins for modules that are seldom used: they answer for what is used, and give way to the module otherwise."""

import subprocess
import sys
import textwrap

import pytest

from edge_agent.cli import PYDANTIC_PLUGINS, stand_in


def run(code: str) -> str:
    """Return what code prints in a process that has the stand-ins."""
    code = "from edge_agent.cli import *\ninstall_stand_ins()\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def name():
    """A module of the standard library that no test needs, not loaded."""
    loaded = sys.modules.pop("colorsys", None)
    yield "colorsys"
    sys.modules.pop("colorsys", None)
    if loaded:
        sys.modules["colorsys"] = loaded


def test_a_stand_in_has_its_attributes_and_loads_the_module_for_others(name):
    """What is given is used as it is; the first use of anything else loads the module, which then replaces it."""
    stand_in(name, ONE_THIRD="ours")
    import colorsys  # noqa: PLC0415

    assert "ours" == colorsys.ONE_THIRD
    assert (0.0, 0.0, 0.5) == colorsys.rgb_to_hsv(0.5, 0.5, 0.5)
    assert 1 / 3 == sys.modules[name].ONE_THIRD


def test_a_module_that_is_loaded_stays(name):
    """Who has loaded the module keeps it."""
    import colorsys  # noqa: PLC0415

    stand_in(name, ONE_THIRD="ours")
    assert sys.modules[name] is colorsys


def test_a_module_that_does_not_exist_is_an_import_error():
    """A stand-in does not hide that a library has changed: its use names the module that is missing."""
    stand_in("edge_agent.no_such_module")
    try:
        with pytest.raises(ImportError, match="no_such_module"):
            _ = sys.modules["edge_agent.no_such_module"].anything
        assert "edge_agent.no_such_module" in sys.modules
    finally:
        del sys.modules["edge_agent.no_such_module"]


def test_messages_and_models_work_with_the_stand_ins():
    """Messages are read and written, models are validated, and neither loads the module that has a stand-in."""
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


def test_what_lacks_in_a_stand_in_of_a_library_is_loaded():
    """A library that uses more of a module than today finds all of it."""
    said = run("""
        from google.protobuf.internal import python_message
        from pydantic.plugin import _loader
        from pydantic import SecretStr
        equal = SecretStr("a") == SecretStr("a")
        print(python_message.GeneratedProtocolMessageType.__name__, _loader.PYDANTIC_ENTRY_POINT_GROUP, equal)
    """)
    assert "GeneratedProtocolMessageType pydantic True" == said


def test_plugins_of_pydantic_are_not_searched_for():
    """The stand-in returns no plugins, and nothing reads the entry points of installed packages."""
    assert "()" == run(f"from sys import modules; print(modules['{PYDANTIC_PLUGINS}'].get_plugins())")
