"""The package that pip installs is the package that stands in the tree."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_PACKAGED = {"tests", "examples", "docs", "build", "dist"}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_tree() -> set[str]:
    """Every folder with Python files that ships, as a dotted name."""
    found = {"hornfels"}
    for folder, subfolders, files in os.walk(ROOT):
        path = Path(folder)
        at_root = path == ROOT
        subfolders[:] = [
            name
            for name in subfolders
            if name.isidentifier()
            and name != "__pycache__"
            and not (at_root and name in NOT_PACKAGED)
            and not (path / name / "pyvenv.cfg").exists()
        ]
        if not at_root and any(name.endswith(".py") for name in files):
            found.add(".".join(("hornfels", *path.relative_to(ROOT).parts)))
    return found


def test_every_subpackage_is_listed(project):
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed)), "a package is listed twice"
    assert packages_in_tree() == set(listed)


def test_every_listed_package_has_an_init(project):
    folders = [ROOT.joinpath(*p.split(".")[1:]) for p in project["tool"]["setuptools"]["packages"]]
    assert [str(f) for f in folders if not (f / "__init__.py").is_file()] == []


def test_every_packaged_file_exists(project):
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"


def test_console_script_is_callable():
    (script,) = entry_points(group="console_scripts", name="hornfels")
    assert callable(script.load())


def test_the_licence_is_the_full_apache_text():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "9. Accepting Warranty or Additional Liability." in text
    assert text.rstrip().endswith("limitations under the License.")


def test_pins_that_keep_tvm_from_crashing(project):
    dependencies = project["project"]["dependencies"]
    assert "apache-tvm==0.27.0.post1" in dependencies
    assert "apache-tvm-ffi>=0.1.14.post0,<0.1.15" in dependencies
    assert not any(d.startswith("onnxruntime") for d in dependencies)


@pytest.mark.parametrize(
    "command",
    ['pip install ".[cpu]" && hornfels demo', 'pip install -e ".[test]" && pytest -n auto'],
)
def test_readme_and_ci_give_the_same_commands(command):
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()
