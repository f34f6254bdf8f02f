"""The plan of the package: imports point one way, one place knows the task, a wheel is whole."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcam_tf.task import PCAM

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pcam_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))
# From the ground up: a room uses those before it, never those after it.
ROOMS = (
    "errors",
    "files",
    "user_tables",
    "task",
    "stain",
    "synthetic",
    "data",
    "models",
    "training",
    "prediction",
    "evaluation",
    "explain",
    "studies",
    "figures",
    "gan",
    "slides",
    "app",
    "session",
    "reproduce",
    "commands",
    "__main__",
)


def room_of(module):
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(module):
    """Return the rooms that a module imports, anywhere in it, with their lines."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pcam_tf":
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pcam_tf."):
            yield node.module.split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("pcam_tf"), f"{module}: import by from"


def test_every_module_stands_in_a_room():
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(module):
    own = room_of(module)
    for room, line in imported_rooms(module):
        assert ROOMS.index(room) <= ROOMS.index(own), f"{module}, line {line}"


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield id(first.value)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_task_knows_the_size_scale_and_classes_of_a_patch(module):
    if module == PACKAGE / "task.py":
        return
    tree = ast.parse(module.read_text(encoding="utf-8"))
    prose = set(docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in prose:
            is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
            assert not (is_number and node.value in (PCAM.side_px, PCAM.mpp)), node.lineno
            assert node.value not in PCAM.classes, node.lineno
        if isinstance(node, ast.Tuple | ast.Call):
            values = node.elts if isinstance(node, ast.Tuple) else node.args
            values = [value.value for value in values if isinstance(value, ast.Constant)]
            assert values != [PCAM.centre.start, PCAM.centre.stop], node.lineno


def test_a_wheel_predicts_a_picture_outside_a_clone(tmp_path):
    """It holds every module and every file of data, and needs nothing from the clone."""
    source = tmp_path / "source"  # a copy, since a build leaves folders behind
    shutil.copytree(PACKAGE, source / "pcam_tf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", tmp_path, source],
        check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )  # fmt: skip
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    kept = [path for path in (source / "pcam_tf").rglob("*") if path.is_file()]
    assert {str(path.relative_to(source)) for path in kept} <= names
    picture = np.random.default_rng(0).integers(0, 256, PCAM.shape, dtype="uint8")
    Image.fromarray(picture).save(tmp_path / "patch.png")
    code = (
        "import sys; from pcam_tf import __main__; "
        f"assert __main__.__file__.startswith({str(tmp_path)!r}); "
        "status = __main__.main(['predict', '--images', 'patch.png', '--output', 'table.csv']); "
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    header, row = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert header == "id,label,probability"
    assert row.startswith("patch.png,,0.")
