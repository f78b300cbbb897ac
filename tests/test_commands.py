"""All commands: what --help shows, that they run in any folder, and that a missing TPU makes no noise."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from score_jax.config import find_config_file, load_config
from score_jax.errors import UserError
from tests.documents import ROOT

COMMANDS = (
  *("main", "plan", "pretrain", "export", "serve", "ask", "report"),
  *("sandbox", "search.server", "grading"),
)
#: prints {command: [exit status, standard output]}
HELP = f"""
import contextlib, io, json, runpy, sys
found = {{}}
for name in {COMMANDS}:
  sys.argv = [name, "--help"]
  with contextlib.redirect_stdout(io.StringIO()) as out:
    try:
      runpy.run_module(f"score_jax.{{name}}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
      found[name] = [end.code or 0, out.getvalue()]
print(json.dumps(found))
"""


def child(
  *arguments: str, cwd: pathlib.Path, without: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
  """Runs Python in another folder, with an environment that lacks some variables."""
  kept = {name: value for name, value in os.environ.items() if name not in without}
  return subprocess.run(
    [sys.executable, *arguments], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
  )


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
  done = child("-c", HELP, cwd=tmp_path_factory.mktemp("elsewhere"), COLUMNS="200")
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_the_exit_statuses(helps: dict[str, tuple[int, str]], name: str) -> None:
  status, text = helps[name]
  assert status == 0
  assert re.search(rf"python -m score_jax\.{re.escape(name)}\b.* --\w+=", text), "an example"
  assert re.search(r"Exit status:? 0.*\b2:?\s+wrong\s+usage", text, re.DOTALL)


@pytest.mark.parametrize("name", ["main", "plan", "pretrain"])
def test_help_lists_the_flags_that_commands_share(helps: dict[str, tuple[int, str]], name: str) -> None:
  assert {"--config", "--workdir"} <= set(re.findall(r"^ +(--\w+):", helps[name][1], re.MULTILINE))


def test_a_config_of_the_package_is_found_in_any_folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  file, _, arg = find_config_file("configs/quickstart.py:smoke").partition(":")
  assert (pathlib.Path(file).read_text(), arg) == ((ROOT / "configs/quickstart.py").read_text(), "smoke")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs/quickstart.py").write_text("def get_config(arg):\n  return {'mine': arg}")
  assert load_config("configs/quickstart.py:x") == {"mine": "x"}, "one's own comes first"
  with pytest.raises(UserError, match=r"^config=configs/quikstart.py: there .* nearest .* is configs/quickstart.py$"):
    find_config_file("configs/quikstart.py")
  with pytest.raises(UserError, match=r"^config=variation.py: there is no such file"):
    find_config_file("variation.py")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed, so it says nothing")
def test_a_tpu_that_is_not_there_is_not_complained_of(tmp_path: pathlib.Path) -> None:
  """The same backend is taken as without it, and where one is named it is tried and complains."""
  line = ("-m", "score_jax.export", "--model=shipped:student", f"--out={tmp_path / 'out'}")
  done = child(*line, cwd=tmp_path, without=("JAX_PLATFORMS",))
  assert (done.returncode, done.stderr) == (0, "")
  named = child(*line[:-1], f"--out={tmp_path / 'other'}", cwd=tmp_path, JAX_PLATFORMS="tpu")
  assert named.returncode == 1 and "TPU" in named.stderr
