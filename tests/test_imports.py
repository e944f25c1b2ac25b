"""The structure: folders import downwards only, and nothing imports in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "sft.secrets sft.stages",
    "sft.errors",
    "sft.files sft.keys",
    "sft.schedules sft.losses sft.service sft.models sft.rendering sft.prior sft.cost",
    "sft.renderers",
    "sft.types",
    "sft.tokens",
    "sft.data",
    "sft.datasets",
    "sft.record",
    "sft.evaluation",
    "sft.evaluators",
    "sft.config",
    "sft.hooks",
    "sft.run",
    "sft.tracking",
    "sft.past",
    "sft.display",
    "sft.command",
    "sft.train",
    "sft.sample sft.runs sft.ui sft.preview",
    "sft.resume sft.fork sft.reproduce sft.compare sft.export sft.promote sft.doctor sft.chat",
    "sft.publish",
    "sft.cost.__main__ sft.models.__main__ sft.init",
    "sft.__main__",
    "sft.sweeps.keys sft.sweeps.parameters",
    "sft.sweeps.samplers sft.sweeps.scheduling",
    "sft.sweeps.study",
    "sft.sweeps.findings",
    "sft.sweeps",
)
"""From the lowest to the highest; those of one line do not import each other."""


def modules():
    """Every module of the harness and its file; sweeps/ is sft.sweeps."""
    found = {}
    for file in [*ROOT.glob("sft/**/*.py"), *(ROOT / "sft/sweeps").rglob("*.py")]:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(file):
    """The modules of the harness that a file imports anywhere, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from inner
            if len(inner) < len(node.names):
                yield node.module


EDGES = {name: sorted(set(imports(file)) - {name}) for name, file in MODULES.items()}


def part_of(module):
    """The part of the house that a module belongs to, and its height."""
    found = [
        (part, height)
        for height, line in enumerate(LAYERS)
        for part in line.split()
        if f"{module}.".startswith(f"{part}.")
    ]
    return max(found, key=lambda part: len(part[0]), default=None)  # not sft.sweeps of .study


def circles():
    """The first circle that a walk along the imports from each module finds."""
    done, found = set(), []

    def walk(module, path):
        if module in path:
            found.append(" > ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in EDGES[module]:
                walk(target, [*path, module])
            done.add(module)

    for module in EDGES:
        walk(module, [])
    return found


def test_nothing_imports_in_a_circle():
    assert circles() == []


def in_the_house(module):
    return module != "sft" and not f"{module}.".startswith("sft.local.")


@pytest.mark.parametrize("module", sorted(filter(in_the_house, MODULES)))
def test_a_module_imports_what_lies_below_it_or_in_its_own_folder(module):
    part, height = part_of(module)
    upwards = [
        target
        for target in EDGES[module]
        if part_of(target)[0] != part and part_of(target)[1] >= height
    ]
    assert upwards == []


def test_the_local_service_imports_nothing_of_the_harness():
    foreign = {
        target
        for module in MODULES
        if f"{module}.".startswith("sft.local.")
        for target in EDGES[module]
        if not f"{target}.".startswith("sft.local.")
    }
    assert foreign == set()


def test_the_two_halves_of_the_local_service_know_each_other_by_the_engines_interface_alone():
    for module in MODULES:
        for half, other in (("server", "engine"), ("engine", "server")):
            if module.startswith(f"sft.local.{half}."):
                assert not [t for t in EDGES[module] if t.startswith(f"sft.local.{other}.")]


def test_a_folder_holds_two_to_fifteen_modules_and_the_top_a_few_more():
    sizes = {}
    for module in MODULES:
        folder = module.rpartition(".")[0]
        sizes[folder] = sizes.get(folder, 0) + (MODULES[module].name != "__init__.py")
    assert sizes.pop("sft") <= 21
    sizes.pop("")
    sizes.pop("sft.local.engine")  # the computing is one thing of many small parts
    assert {folder: size for folder, size in sizes.items() if not 2 <= size <= 15} == {}
