"""The import table of the design, held as data and checked against every module's imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import specsim

PACKAGE = Path(specsim.__file__).parent


class Room(NamedTuple):
    """Where a module or package of specsim lives.

    Imports run to lower floors only; on its own floor a room imports itself and ``peers``. ``packages`` are third-party
    ones allowed at the top of a module, ``lazy`` those allowed inside functions only.
    """

    floor: int
    peers: str = ""
    packages: str = ""
    lazy: str = ""


NOUN = "numpy pydantic"
TABLE = {
    # 0: no third-party package but pydantic, where documents are read
    "errors": Room(0),
    "units": Room(0),
    "documents": Room(0, peers="errors", packages="pydantic"),
    # 1, nouns: each may use those before it
    "hardware": Room(1, packages=NOUN),
    "model": Room(1, peers="hardware", packages=NOUN),
    "tree": Room(1, peers="hardware model", packages=NOUN),
    "trees_known": Room(1, peers="hardware model tree", packages=NOUN),
    "dialects_known": Room(1),
    "dialect": Room(1, peers="hardware model tree trees_known dialects_known", packages=NOUN),
    "work": Room(1, peers="hardware model tree trees_known dialect", packages=NOUN),
    "workload": Room(1, peers="hardware model tree trees_known dialect work", packages=NOUN),
    "records": Room(1, peers="hardware model tree trees_known dialect work workload", packages=NOUN),
    # 2, algorithms: numpy's arrays or torch's, and neither of the two by name beyond what the standard gives
    "decoding": Room(2, packages="numpy array_api_compat"),
    # 3, questions: not each other
    "methods": Room(3, packages=NOUN),
    "cost": Room(3, packages=NOUN),
    "acceptance": Room(3, packages=NOUN, lazy="scipy"),
    # 4
    "scenario": Room(4, packages=NOUN),
    "calibrate": Room(4, packages=NOUN, lazy="scipy pyarrow"),
    "metrics": Room(4, packages=NOUN, lazy="scipy"),
    # 5, answers: not each other
    "estimate": Room(5, packages=NOUN),
    "sim": Room(5, packages=f"{NOUN} simpy", lazy="numba"),
    # 6, 7
    "search": Room(6, packages=NOUN, lazy="scipy numba"),
    "plan": Room(7, packages=NOUN),
    "validate": Room(7, packages=NOUN, lazy="scipy"),
    # 8, doors
    "engines": Room(8, packages=NOUN),
    "plots": Room(8, packages="numpy", lazy="matplotlib"),
    "report": Room(8, packages="rich"),
    # 9
    "cli": Room(9, packages="typer rich numpy"),
    "__main__": Room(10),
    # aside: sees floors 0 to 3 and is seen by the command line alone, lazily
    "executor": Room(4, packages="numpy pydantic torch safetensors", lazy="tokenizers transformers"),
}


class Import(NamedTuple):
    """``module`` imports ``name``; ``is_lazy`` inside a function, or for the type checker only."""

    module: str
    name: str
    is_lazy: bool
    line: int


def imports(path: Path, module: str) -> Iterator[Import]:
    """Every import of a file, those inside functions included."""
    pending = [(node, False) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    while pending:
        node, is_lazy = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, is_lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are written from `specsim.` on"
            # `from specsim import cost` names the room in the alias
            names = [f"specsim.{a.name}" for a in node.names] if node.module == "specsim" else [node.module or ""]
            yield from (Import(module, name, is_lazy, node.lineno) for name in names)
        inside = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types(node)
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def fault(found: Import, table: dict[str, Room] = TABLE) -> str | None:
    """Why the design forbids this import; None where it does not."""
    room_name, (top, *below) = found.module.split(".")[1], found.name.split(".")
    room = table[room_name]
    if top != "specsim":
        allowed = f"{room.packages} {room.lazy if found.is_lazy else ''}".split()
        known = top in sys.stdlib_module_names or top in allowed
        return (
            None if known else f"{room_name} may not import {top}{'' if found.is_lazy else ' at the top of a module'}"
        )
    other_name = below[0] if below else ""
    if other_name in ("", "__version__", room_name):
        return None
    if other_name == "executor":
        return None if room_name == "cli" and found.is_lazy else "executor is for cli alone, inside functions"
    if other_name not in table:
        return f"specsim.{other_name} has no place in the table"
    is_below = table[other_name].floor < room.floor or other_name in room.peers.split()
    return None if is_below else f"{room_name} (floor {room.floor}) may not import {other_name}"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    paths = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in paths.items()}


def test_every_room_has_its_floor() -> None:
    assert {name.split(".")[1] for name in modules() if name != "specsim"} <= TABLE.keys()


def test_imports_follow_the_table() -> None:
    found = [i for name, path in modules().items() if name != "specsim" for i in imports(path, name)]
    assert len(found) > 100  # it did read something
    faults = [f"{i.module}:{i.line}: {why}" for i in found if (why := fault(i))]
    assert not faults, "\n".join(faults)


def test_the_package_itself_loads_no_room() -> None:
    """`import specsim` names the public things for the type checker, and loads them on first use."""
    loaded = [i for i in imports(PACKAGE / "__init__.py", "specsim") if not i.is_lazy]
    assert not [i.name for i in loaded if i.name.split(".")[0] not in sys.stdlib_module_names]


@pytest.mark.parametrize(
    ("module", "line", "is_lazy"),
    [
        ("specsim.cost.model", "specsim.acceptance", False),  # questions do not import each other
        ("specsim.sim.core", "specsim.estimate", False),  # nor do answers
        ("specsim.tree", "specsim.work", False),  # a later noun
        ("specsim.model.spec", "specsim.cost.count", True),  # upward, though lazily
        ("specsim.decoding.state", "torch", True),
        ("specsim.metrics", "scipy.stats", False),  # lazily only
        ("specsim.validate.run", "specsim.executor", True),  # receives a callable instead
        ("specsim.cli.validate", "specsim.executor", False),
        ("specsim.cost.model", "specsim.attic", False),  # no such room
        ("specsim.executor.llama", "specsim.scenario", False),
    ],
)
def test_the_table_refuses(module: str, line: str, is_lazy: bool) -> None:
    assert fault(Import(module, line, is_lazy, 1))


def test_imports_are_found_wherever_they_hide(tmp_path: Path) -> None:
    source = "from specsim import cost\nclass A:\n    def f(self):\n        if 1:\n            import scipy.stats\n"
    (tmp_path / "a.py").write_text(source)
    found = {(i.name, i.is_lazy) for i in imports(tmp_path / "a.py", "specsim.tree")}
    assert found == {("specsim.cost", False), ("scipy.stats", True)}
