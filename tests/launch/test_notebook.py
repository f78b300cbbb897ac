"""The notebook from top to bottom, in a kernel of its own, on CPU."""

from __future__ import annotations

import ast
import importlib
import os
import pathlib
import re
import shutil
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "launch" / "colab" / "score_jax.ipynb"


def read() -> Any:
  nbformat = pytest.importorskip("nbformat")
  return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_a_notebook_without_outputs() -> None:
  notebook = read()
  pytest.importorskip("nbformat").validate(notebook)
  assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_it_names_the_weaker_sandbox_and_says_so() -> None:
  notebook = read()
  (run,) = [i for i, cell in enumerate(notebook.cells) if "score_jax.main" in cell.source]
  assert "--config.tools.isolation=process" in notebook.cells[run].source
  assert "**weaker** sandbox" in notebook.cells[run - 1].source


def test_its_commands_are_of_configs_that_exist() -> None:
  names = re.findall(r"configs/\w+\.py", NOTEBOOK.read_text())
  assert names and all((ROOT / name).is_file() for name in names)


def test_what_it_takes_from_the_package_is_there() -> None:
  """Imports, and the functions of an imported module that it calls."""
  cells = [cell.source for cell in read().cells if cell.cell_type == "code" and not cell.source.startswith("%%")]
  tree = ast.parse("\n".join(cells))
  modules: dict[str, Any] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("score_jax"):
      package = importlib.import_module(str(node.module))
      for alias in node.names:
        if not hasattr(package, alias.name):
          importlib.import_module(f"{node.module}.{alias.name}")
        modules[alias.name] = getattr(package, alias.name)
  assert modules
  used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
  assert all(hasattr(modules[n.value.id], n.attr) for n in used if n.value.id in modules)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_it_runs_through(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """In a copy of the checkout, so that what it writes goes away."""
  nbclient = pytest.importorskip("nbclient")
  pytest.importorskip("ipykernel")
  for name in ("score_jax", "configs"):
    shutil.copytree(ROOT / name, tmp_path / name)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")  # whose python a cell calls
  monkeypatch.delenv("XLA_FLAGS", raising=False)  # the tests' eight devices
  notebook = read()
  nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
  told = "".join(
    output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
  )
  assert "trajectories with corrections" in told and "warm_start" in told
  assert "answer: " in told or "(it submitted no answer)" in told
  if "libtpu is not there" not in told:
    assert "everything fits" in told
  assert os.path.exists(tmp_path / "runs" / "notebook" / "results.json")
