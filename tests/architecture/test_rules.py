"""Each architecture rule finds its violations and accepts correct code: a rule that cannot fail protects nothing."""

import pytest

from tests.architecture import habits, imports, shape
from tests.architecture.source import Source, parse

LAYERS: dict[str, set[str]] = {
    "app.errors": set(),
    "app.store": {"app.errors"},
    "app.service": {"app.store", "app.errors"},
}


def files(**texts: str) -> list[Source]:
    """Parse snippets; `app__store` is app/store.py."""
    return [parse(name.replace("__", "/") + ".py", text) for name, text in texts.items()]


def lines_of(violations: list[str]) -> list[str]:
    """Return the places of violations without their messages."""
    return [violation.partition(": ")[0] for violation in violations]


def test_forbidden_edge_found():
    """A lower layer that imports a higher one is a violation; the other direction is not."""
    sources = files(app__store="import os\nfrom app.service import Server", app__service="import app.store")
    assert ["app/store.py:2"] == lines_of(imports.forbidden_edges(sources, LAYERS))


def test_forbidden_edge_through_package():
    """`from package import module` counts as importing the module."""
    sources = files(app__store="from app import service, errors", app__service="", app__errors="")
    assert ["app/store.py:1: app.store must not import app.service (app.service)"] == imports.forbidden_edges(
        sources, LAYERS
    )


def test_inner_layer_is_its_own_layer():
    """The innermost layer of a module counts: an inner layer of the table cannot import everything that its outer layer
    can."""
    layers = {"app.engine": {"app.errors"}, "app.engine.runtimes": {"app.engine"}, "app.errors": set()}
    sources = files(app__engine__pool="import app.engine.runtimes.x", app__engine__runtimes__x="import app.errors")
    found = imports.forbidden_edges(sources, layers)
    assert ["app/engine/pool.py:1", "app/engine/runtimes/x.py:1"] == lines_of(found)


def test_file_without_a_layer_found():
    """A file that is in no layer of the table is a violation."""
    assert ["app/new/thing.py:1"] == lines_of(imports.without_layer(files(app__new__thing="", app__errors=""), LAYERS))


def test_foreign_library_has_one_importer():
    """A library can be imported only in its layer; a library that is not listed cannot be imported anywhere."""
    sources = files(app__service="import grpc.aio", app__store="import grpc\nimport requests\nimport json")
    found = imports.foreign_edges(sources, {"grpc": ("app.service",)})
    assert ["app/store.py:1", "app/store.py:2"] == lines_of(found)


def test_late_import_found():
    """An import inside a function is a violation; in a listed module, or at the top under `if`, it is not."""
    text = "if x:\n    import json\ndef f():\n    import os\n"
    sources = files(app__a=text, app__b=text)
    assert ["app/a.py:4"] == lines_of(imports.late_imports(sources, {"app.b": "a reason"}))


def test_cycle_found():
    """Modules that import each other in a ring are found, whatever the length of the ring."""
    ring = files(a="import b", b="from c import x", c="import a")
    assert ["a -> b -> c -> a"] == [_rotated(cycle) for cycle in imports.cycles(ring)]
    assert [] == imports.cycles(files(a="import b", b="import c", c="import os"))


def test_cycle_through_a_package_found():
    """A module depends on the packages around the modules that it imports; its own package can import it."""
    ring = {"a": "from b.c import d", "b": "from b import e", "b.c": "d = 1", "b.e": "import a"}
    assert ["a -> b -> b.e -> a"] == [_rotated(cycle) for cycle in imports.cycles(files(**ring))]
    assert [] == imports.cycles(files(**{"b": "from b import e", "b.c": "d = 1", "b.e": "from b.c import d"}))


def _rotated(cycle: str) -> str:
    ring = cycle.split(" -> ")[:-1]
    start = ring.index("a")
    return " -> ".join([*ring[start:], *ring[:start], "a"])


@pytest.mark.parametrize("text", ["import time", "from os import path", "async def f():\n    await g()", "open('x')"])
def test_impurity_found(text: str):
    """A module that must be pure can have no clock, no waiting and no files."""
    assert 1 == len(imports.impure(files(rule=text, shell=text), ["rule"]))


@pytest.mark.parametrize(
    ("text", "violations"),
    [
        ("class Caps:\n    def room(self, now: Path): return self.limit - now\ndef keep(): open('x')", 0),
        ("class Caps:\n    def room(self): return time.time()", 1),
        ("class Caps:\n    def room(self): return _now()\ndef _now(): return time.time()", 1),
        ("class Caps:\n    async def room(self): await self.task", 1),
        ("class Cap: pass", 1),
    ],
)
def test_impure_definition_found(text: str, violations: int):
    """A definition that must be pure reaches no clock and no file and does not wait; other definitions of its module
    can."""
    source = files(app__a=f"import time\nfrom pathlib import Path\n{text}")
    assert violations == len(imports.impure_definitions(source, {"app.a": ["Caps"]}))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("def judge(facts: Path) -> Iterator[Finding]:\n    yield LIMIT\nLIMIT = 3", []),
        ("def judge(facts) -> Iterator[Finding]:\n    yield _now()\ndef _now(): return time.time()", ["app/a.py:6"]),
        ("def judge(facts) -> Iterator[Finding]:\n    yield probe(facts)", ["app/a.py:6"]),
        ("def judge(facts) -> Iterator[Finding]:\n    yield stat(facts)", ["app/a.py:6"]),
        ("def judge(facts) -> Iterator[Finding]:\n    yield Row(facts)\nclass Row:\n    size: Path", []),
    ],
)
def test_impure_rule_found(rules: str, expected: list[str]):
    """A rule must not reach a clock or a file, neither through its own file nor through another one; a probe can."""
    head = (
        "import time\nfrom pathlib import Path\nfrom app.b import stat\ndef probe(context):\n    return time.time()\n"
    )
    sources = files(app__a=head + rules, app__b="import os\ndef stat(path):\n    return os.stat(path)\n")
    assert expected == lines_of(imports.impure_rules(sources, "Iterator[Finding]", []))


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("from app.a import keep\nkeep(1, path=2)\nkeep(**{})", []),
        ("from app import a\na.keep(1, folder=2)", ["app/b.py:2: keep has no parameter folder"]),
        ("import app.a\napp.a.keep(1, folder=2)", []),
        ("from app.a import keep as store\nstore(size=1, folder=2)", ["app/b.py:2: keep has no parameter folder"]),
        ("from app.a import store", ["app/b.py:1: there is no store"]),
        ("from app.a import SIZE, Path\nfrom app.a import any_\nany_(folder=1)\nPath(folder=2)", []),
        ("print(folder=1)\ndef keep(size): ...\nkeep(folder=2)", ["app/b.py:3: keep has no parameter folder"]),
    ],
)
def test_broken_use_found(use: str, expected: list[str]):
    """An imported name exists, and a called function has the parameters that the call names."""
    module = "from pathlib import Path\nSIZE = 1\ndef keep(size, *, path=''): ...\ndef any_(**settings): ..."
    assert expected == imports.broken_uses(files(app__b=use), files(app__a=module, app____init__=""))


def test_unused_module_found():
    """A module that no other imports is unused unless it is an entry point; a package is used through its modules."""
    sources = files(app__a="import app.b", app__b="", app__c="", app__main="import app.a")
    assert ["app/c.py:1"] == lines_of(imports.unused(sources, {"app.main": "console script"}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 1", 1),
        ("if a and b or c:\n        pass", 4),
        ("return [x for x in y if x if z]", 4),
        ("try:\n        pass\n    except A:\n        pass\n    except B:\n        pass", 3),
        ("for x in y:\n        while x:\n            x = 1 if x else 2", 4),
        ("match x:\n        case 1:\n            pass\n        case _:\n            pass", 2),
        ("def inner():\n        if a:\n            pass", 1),
    ],
)
def test_complexity(body: str, expected: int):
    """Branches, boolean operators, handlers, cases and comprehensions count one each; nested functions are counted
    separately."""
    outer = shape.functions(files(a=f"def f():\n    {body}\n"))[0]
    assert expected == outer.complexity


def test_parameters_count_without_self():
    """Every kind of parameter counts; self and cls do not."""
    sources = files(
        a="def f(a, /, b, *c, d, **e): ...\nclass C:\n    def g(self, a): ...\n    @classmethod\n    def h(cls): ..."
    )
    assert [5, 1, 0] == [item.parameters for item in shape.functions(sources)]


def test_oversized_function_found():
    """A function over a limit is reported with its figure and the limit."""
    sources = files(a="def f(a, b):\n    a()\n    b()\n")
    limits = {"lines": 2, "complexity": 1, "parameters": 2}
    assert ["a.py:1: f: lines 3, the limit is 2"] == shape.oversized(shape.functions(sources), limits)


def test_long_file_found():
    """A file over the limit is a violation."""
    sources = files(a="x = 1\n" * 5, b="x = 1\n" * 3)
    assert ["a.py:1"] == lines_of(shape.long_files(sources, 4))


def test_banned_names_found():
    """Names that fit any content are violations; names that merely contain one are not."""
    sources = files(app__utils="", app__toolbox="class PlanManager: ...\nclass Management: ...\nclass PathHelper: ...")
    assert ["app/utils.py:1", "app/toolbox.py:1", "app/toolbox.py:3"] == lines_of(shape.banned_names(sources))


def test_bare_participle_as_class_name_found():
    """A class whose name is only a participle is a violation; a participle with a noun is not."""
    sources = files(a="class Said: ...\nclass _Kept: ...\nclass SaidByPeople: ...")
    assert ["a.py:1", "a.py:2"] == lines_of(shape.bare_participles(sources))


def test_repeated_class_name_found():
    """A class name that exists twice is reported at both places, in any files."""
    sources = files(a="class Plan: ...", b="class Plan: ...\nclass Command: ...")
    assert ["a.py:1", "b.py:1"] == lines_of(shape.repeated_classes(sources))


def test_lonely_interface_found():
    """An interface needs two classes with all its methods, inherited ones included; asyncio.Protocol is not an
    interface."""
    text = """
class Seam(Protocol):
    def put(self): ...
    def get(self): ...
class One:
    def put(self): ...
    def get(self): ...
class Half(asyncio.Protocol):
    def put(self): ...
"""
    assert ["a.py:2"] == lines_of(shape.lonely_interfaces(files(a=text)))
    assert [] == shape.lonely_interfaces(files(a=text + "class Two(Half):\n    def get(self): ..."))


def test_abstract_class_is_an_interface():
    """A class with the base ABC or the metaclass ABCMeta is an interface."""
    text = "class A(ABC):\n    def f(self): ...\nclass B(metaclass=abc.ABCMeta):\n    def g(self): ..."
    assert ["a.py:1", "a.py:3"] == lines_of(shape.lonely_interfaces(files(a=text)))


@pytest.mark.parametrize("clause", ["except Exception:", "except (ValueError, BaseException) as e:", "except:"])
def test_broad_except_found(clause: str):
    """Catching everything is a violation, except in a listed module."""
    text = f"try:\n    f()\n{clause}\n    pass\n"
    assert ["a.py:3"] == lines_of(habits.broad_excepts(files(a=text, b=text), {"b": "a reason"}))


@pytest.mark.parametrize(
    "clause", ["except (OSError, KeyError):\n    pass", "except BaseException:\n    g()\n    raise"]
)
def test_narrow_except_passes(clause: str):
    """Catching named exceptions is allowed, and so is a handler that cleans up and raises again."""
    assert [] == habits.broad_excepts(files(a=f"try:\n    f()\n{clause}"), {})


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.create_task(g())",
        "self._loop.create_task(g())",
        "asyncio.ensure_future(g())",
        "threading.Thread(target=g)",
        "Thread(target=g)",
        "ThreadPoolExecutor(1)",
        "loop.run_in_executor(None, g)",
    ],
)
def test_unowned_background_found(call: str):
    """A task or a thread without an owner is a violation, except in a listed module and the modules inside it."""
    text = f"async def f():\n    {call}\n"
    listed = {"b": "a reason"}
    assert ["a.py:2"] == lines_of(habits.unowned(files(a=text, b=text), listed))


def test_a_task_group_owns_its_tasks():
    """A task that is started in a TaskGroup is not a violation, because the group awaits it."""
    text = "async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(g())\n"
    assert [] == habits.unowned(files(a=text), {})


def test_modules_of_the_working_directory_found():
    """Python with -m is a violation unless -P or -I comes before it; a script is not."""
    text = (
        "a = [sys.executable, '-m', 'x', '-P']\nb = [sys.executable, '-P', '-m', 'x']\nc = [sys.executable, 'x.py']\n"
    )
    assert ["a.py:1"] == lines_of(habits.borrowed_modules(files(a=text)))


@pytest.mark.parametrize("call", ["time.sleep(1)", "sleep(1)", "await asyncio.sleep(0)"])
def test_sleep_found(call: str):
    """A test that calls any function named sleep is a violation."""
    text = f"async def f():\n    {call}\n"
    assert ["a.py:2"] == lines_of(habits.sleeping(files(a=text, b=text), {"b": "a reason"}))


@pytest.mark.parametrize(
    "line",
    [
        "import unittest.mock",
        "from unittest import mock",
        "from unittest.mock import patch",
        "def test_x(mocker): ...",
        "monkeypatch.setattr(module, 'name', 1)",
    ],
)
def test_patching_found(line: str):
    """Mocks and replaced attributes are violations."""
    assert ["a.py:1"] == lines_of(habits.patching(files(a=line)))


@pytest.mark.parametrize("line", ["monkeypatch.setenv('A', '1')", "import unittest", "import mockery"])
def test_setting_the_environment_passes(line: str):
    """Setting the environment is not a violation of the rule against patching."""
    assert [] == habits.patching(files(a=line))


def test_test_without_fact_found():
    """A test without a docstring is a violation; a fixture without one is not."""
    text = 'def test_a():\n    """It holds."""\nclass T:\n    async def test_b(self): ...\ndef fixture(): ...'
    assert ["a.py:4"] == lines_of(habits.without_fact(files(a=text)))


def test_unknown_argument_found():
    """A name in `Args:` that is not a parameter is a violation, also next to one that is."""
    text = """
def f(one, *more, **rest):
    \"\"\"Do it.

    Args:
        one, two: the first
            three: is a word of the description.
        *more: others.
        **rest: options.

    Raises:
        Wrong: never.
    \"\"\"
"""
    assert ["a.py:2: f has no parameter two"] == habits.unknown_arguments(files(a=text))


def test_dependency_names():
    """Version, extras and markers are not part of a name."""
    given = ["grpcio>=1,<2", "uvloop>=0.21; sys_platform == 'linux'", "a-b[c]==1", "rich"]
    assert ["grpcio", "uvloop", "a-b", "rich"] == habits.dependency_names(given)


def test_unnamed_found():
    """A name must stand alone in the document: part of another name is not enough."""
    assert ["engine/", "grpcio", "rich"] == habits.unnamed(
        {"grpcio", "rich", "engine/", "typer"}, "`grpcio-status`, `typer`, enriched, my-engine/"
    )


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("The parts.", []),
        ("The parts.\n\nleft.py   one\nright.py  another, unlike app/other.py", []),
        ("The parts.\n\nleft.py   one", ["app/__init__.py:1"]),
        ("The parts.\n\nleft.py   one\nright.py  another\ngone.py   none", ["app/__init__.py:1"]),
    ],
)
def test_unlisted_module_found(docstring: str, expected: list[str]):
    """A package docstring that lists one file must list all files of the package, and only existing ones."""
    package = parse("app/__init__.py", f'"""{docstring}\n"""')
    sources = [package, *files(app__left="", app__right="", app__sub__deep="")]
    assert expected == lines_of(habits.unlisted_modules(sources))
