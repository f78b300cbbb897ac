"""What may import what, told from the source alone; and that JAX stays out of processes that do not need it."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import score_jax

PACKAGE = pathlib.Path(score_jax.__file__).parent
ROOT = PACKAGE.parent

#: the floors of the package: a room imports from those before its own, and from itself
FLOORS: tuple[tuple[str, ...], ...] = (
  ("errors", "text"),
  ("limits", "model", "trajectory"),
  ("config", "runtime", "sampler", "sandbox"),
  ("command", "grading", "search", "train"),
  ("agent", "chat", "tasks"),
  ("serve", "teaching"),
  ("experiment", "rl", "trl_records"),
  ("evaluate", "plan", "report", "training_data"),
  ("recipe",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
  """A module's name within the package, such as agent.rollout; empty for the package itself."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: pathlib.Path) -> Iterator[str]:
  """The modules of the package that a file imports anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.removeprefix("score_jax.") for alias in node.names if alias.name.startswith("score_jax."))
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: a relative import"
      if node.module == "score_jax":
        yield from (alias.name for alias in node.names)
      elif node.module and node.module.startswith("score_jax."):
        module = node.module.removeprefix("score_jax.")
        inner = [f"{module}.{alias.name}" for alias in node.names]
        yield from (name if _is_module(name) else module for name in inner)


def _is_module(name: str) -> bool:
  path = PACKAGE / name.replace(".", "/")
  return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room(module: str) -> str:
  return module.partition(".")[0]


IMPORTS = {name_of(path): set(imported(path)) for path in MODULES}


def test_imports_point_one_way() -> None:
  """Upwards never; a module at the top that has no floor of its own is a command, which nothing imports."""
  wrong = [
    f"{module} imports {other}"
    for module, others in IMPORTS.items()
    for other in others
    if room(module) != room(other) and FLOOR.get(room(module), len(FLOORS)) <= FLOOR.get(room(other), len(FLOORS))
  ]
  assert not wrong


def test_every_floor_is_there() -> None:
  """Otherwise the test above would look past what was renamed."""
  assert FLOOR.keys() <= {room(module) for module in IMPORTS}
  assert IMPORTS["recipe"] > {"experiment.experiment", "experiment.stages", "rl.loop"}


def test_no_module_imports_itself_by_way_of_others() -> None:
  def reach(module: str, seen: set[str]) -> set[str]:
    for other in IMPORTS.get(module, ()):
      if other not in seen:
        seen.add(other)
        reach(other, seen)
    return seen

  assert not [module for module in IMPORTS if module and module in reach(module, set())]


def test_the_command_of_a_room_is_imported_by_nobody() -> None:
  assert not [m for m, others in IMPORTS.items() if any(other.endswith("__main__") for other in others)]


@pytest.mark.parametrize(
  "modules",
  [
    "score_jax",
    "score_jax.sandbox.worker",
    "score_jax.trajectory, score_jax.runtime.workdir, score_jax.sandbox.sandbox, score_jax.tasks.questions",
    "score_jax.report.page",
  ],
)
def test_nothing_of_jax_is_imported_where_it_is_not_needed(modules: str) -> None:
  code = f"import sys, {modules}; print(sorted(m for m in sys.modules if m.split('.')[0] in ('jax', 'jaxlib', 'flax')))"
  assert _python(code) == "[]\n"


def test_importing_every_module_starts_no_backend() -> None:
  """So that a command can still say where to compute."""
  code = (
    "import importlib, jax._src.xla_bridge as bridge\n"
    f"for name in {[f'score_jax.{name}' for name in IMPORTS if name and not name.endswith('__main__')]}:\n"
    "  importlib.import_module(name)\n"
    "print(bridge.backends_are_initialized())"
  )
  assert _python(code) == "False\n"


def _python(code: str) -> str:
  """What a fresh interpreter prints."""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


#: modules that ask for the time of day, all to show it to people or to write it into metrics; a retriever's
#: servers may name the time until which they want to be left alone
WALL_CLOCK = {"runtime.lock", "runtime.metrics", "search.retriever", "serve.server"}


def test_nothing_hangs_on_the_time_of_day() -> None:
  """It may jump; waiting and intervals go by the monotonic clock."""
  asks = re.compile(r"\btime\.(time|time_ns|ctime|localtime|gmtime)\(|\b(datetime|date)\.(now|utcnow|today)\(")
  assert {name_of(p) for p in MODULES if asks.search(p.read_text())} - {"sandbox.clock"} == WALL_CLOCK


DOCUMENTS = sorted(p for p in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if p.exists())
TEXTS = [
  *DOCUMENTS,
  *MODULES,
  *(p for name in ("configs", "benchmarks", "launch") for p in sorted((ROOT / name).rglob("*.py"))),
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_speak_of_nothing_outside_the_repository(path: pathlib.Path) -> None:
  """No document that is not here, no path that leads out of it, none of a machine that it was written on."""
  text = path.read_text()
  for name in re.findall(r"(?<![\w/:.-])(?:[\w.-]+/)*[\w-]+\.md\b", text):
    assert (ROOT / name).exists() or (path.parent / name).exists(), f"{name} is not in the repository"
  outside = re.findall(r"\.\./[\w./]+", text)
  assert all((path.parent / p).resolve().is_relative_to(ROOT) for p in outside), outside
  assert not re.findall(r"(?<![\w.])/(?:work|root|home|mnt)/\S*", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_in_documents_lead_somewhere(path: pathlib.Path) -> None:
  links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
  local = [link.partition("#")[0] for link in links if not link.startswith(("http://", "https://", "#", "mailto:"))]
  assert not [link for link in local if not (path.parent / link).exists()]
