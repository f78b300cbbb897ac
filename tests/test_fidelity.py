"""docs/fidelity.md says what the configs say, and names tests that exist."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from score_jax.config import load_config
from score_jax.train.optimizer import ADAM_B2

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "fidelity.md").read_text()
SETTINGS = re.findall(r"`(\w+\.\w+) = ([^`]+)`", TEXT)
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", TEXT)))


@pytest.fixture(scope="module")
def paper() -> dict[str, object]:
  config = load_config(str(ROOT / "configs" / "paper.py"))
  return {
    f"{group}.{key}": value for group, keys in config.items() if hasattr(keys, "items") for key, value in keys.items()
  }


@pytest.mark.parametrize(("key", "value"), SETTINGS, ids=[key for key, _ in SETTINGS])
def test_a_setting_is_the_configured_default(paper: dict[str, object], key: str, value: str) -> None:
  found = paper[key]
  wanted = value if isinstance(found, str) else ast.literal_eval(value)
  assert found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_is_named_exists(name: str) -> None:
  file, _, function = name.partition("::")
  assert (ROOT / file).is_file(), file
  if function:
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_every_mistake_of_the_release_has_a_line_with_a_test() -> None:
  mistakes = dict(re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*) \|$", TEXT, re.MULTILINE))
  assert list(mistakes) == [str(i) for i in range(1, 14)]
  assert all("`tests/" in held for held in mistakes.values())


def test_every_setting_has_a_test_or_a_default() -> None:
  table = TEXT.partition("## Settings")[2].partition("##")[0]
  rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
  assert len(rows) > 20 and all(len(row) == 4 for row in rows)
  assert [row[0] for row in rows if "`" not in row[2] + row[3]] == [" sizes, math / search"]


def test_the_optimisers_second_moment_is_among_the_departures() -> None:
  table = TEXT.partition("## Departures on purpose")[2].partition("\n##")[0]
  assert re.search(rf"^\| AdamW's b2 \|[^|]*0\.999 \| {ADAM_B2}, ", table, re.MULTILINE)
