from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import tensorflow_datasets as tfds

from score_jax.errors import UserError
from score_jax.tasks import datasets as rows
from tests.tasks.sources import ROWS, write_lines, written

FORMATS = (
  "lines, list, examples, folder of lines, save_to_disk, parquet, folder of parquet, array_record, tfds by name"
).split(", ")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  folder = tmp_path_factory.mktemp("rows")
  places = written(folder)
  tfds.core.add_data_dir(folder / "tfds")  # where names are looked for
  return {**places, "tfds by name": "tfds:asked"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def read(path: str, split: str = "train") -> list[tuple[str, Any]]:
  return list(rows.read_rows(path, split=split, knob="tasks.path"))


@pytest.mark.parametrize("name", [*FORMATS, "save_to_disk, splits"])
def test_every_format_gives_the_rows_that_it_was_made_from(places: dict[str, str], name: str) -> None:
  found = [row for _, row in read(places[name])]
  if "tfds" in name or name == "array_record":  # tensorflow_datasets shuffles what it prepares
    found.sort(key=lambda row: [r["key"] for r in ROWS].index(row["key"]))
  assert found == ROWS


@pytest.mark.parametrize("name", ["lines", "list", "folder of parquet", "array_record"])
def test_every_row_says_where_it_stands(places: dict[str, str], name: str) -> None:
  wheres = [where for where, _ in read(places[name])]
  assert len(set(wheres)) == len(ROWS)
  assert all(where.startswith(places[name]) for where in wheres)


def test_no_tensorflow_is_imported(places: dict[str, str]) -> None:
  code = (
    "import sys\n"
    "from score_jax.tasks.datasets import read_rows\n"
    f"found = list(read_rows({places['array_record']!r}, split='train', knob='tasks.path'))\n"
    "print(len(found), 'tensorflow' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
  assert done.stdout == f"{len(ROWS)} False\n"


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: pathlib.Path) -> None:
  (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"q": 1}\r\n\r\n{"q": 2}')
  assert read(str(tmp_path / "a.jsonl")) == [(f"{tmp_path}/a.jsonl:1", {"q": 1}), (f"{tmp_path}/a.jsonl:3", {"q": 2})]


def test_columns_that_would_have_to_be_decoded_are_left_out(tmp_path: pathlib.Path) -> None:
  datasets = pytest.importorskip("datasets")
  features = datasets.Features({"q": datasets.Value("string"), "picture": datasets.Image()})
  datasets.Dataset.from_list([{"q": "?", "picture": None}], features=features).save_to_disk(str(tmp_path / "d"))
  assert [row for _, row in read(str(tmp_path / "d"))] == [{"q": "?"}]


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ('{"q": 1}\n{"q": \n', r"a\.jsonl:2: .* is no JSON"),
    ('{"q": 1}\n[1]\n', r"a\.jsonl:2: '\[1\]' is no JSON object"),
    ("3", r"a\.jsonl:1: '3' is no JSON object"),
  ],
)
def test_a_bad_line_is_named(tmp_path: pathlib.Path, text: str, said: str) -> None:
  (tmp_path / "a.jsonl").write_text(text)
  with pytest.raises(UserError, match=said):
    read(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
  ("name", "content", "said"),
  [
    ("a.json", b"{", r"a\.json: '\{' is no JSON"),
    ("a.json", b'{"rows": []}', r"neither a list nor"),
    ("a.json", b'[{"q": 1}, 2]', r"a\.json row 2: '2' is no JSON object"),
    ("a.jsonl", b'{"q": "\xff"}', r"a\.jsonl is not in UTF-8"),
    ("a.parquet", b"no parquet", r"a\.parquet is no parquet file"),
    ("a.csv", b"q\n1\n", r"tasks\.path = '.*a\.csv' ends with '\.csv'; give a file that ends with \.jsonl"),
  ],
)
def test_a_file_of_another_form_is_refused(tmp_path: pathlib.Path, name: str, content: bytes, said: str) -> None:
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=said):
    read(str(tmp_path / name))


@pytest.mark.parametrize("path", ["nowhere.jsonl", "/no/such/folder", "a/b.jsonl", "ORG"])
def test_what_is_not_there_is_refused_with_what_there_may_be(path: str) -> None:
  with pytest.raises(UserError, match=r"tasks\.path = '.*': there is no such file or folder; give one, or ORG/NAME"):
    read(path)


def test_a_folder_without_a_data_set_says_what_it_may_hold(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"train\.jsonl does not exist; set tasks\.path to a folder with"):
    read(str(tmp_path))


@pytest.mark.parametrize("name", ["save_to_disk, splits", "folder of parquet", "array_record", "tfds by name"])
def test_a_split_that_does_not_exist_is_refused_with_those_that_do(places: dict[str, str], name: str) -> None:
  with pytest.raises(UserError, match=r"(?s)train.*choose another tasks\.split") as error:
    read(places[name], "dev")
  assert "\n" not in str(error.value)


def test_an_unknown_name_of_tensorflow_datasets_is_refused_in_one_line() -> None:
  with pytest.raises(UserError, match=r"tfds:no_such_set: tensorflow_datasets cannot read it \(Dataset no_such_set"):
    read("tfds:no_such_set")


def test_a_set_of_tensorflow_datasets_in_another_format_is_refused(
  places: dict[str, str], tmp_path: pathlib.Path
) -> None:
  for file in pathlib.Path(places["array_record"]).iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes().replace(b'"array_record"', b'"tfrecord"'))
  with pytest.raises(UserError, match=r"prepared with file_format='array_record'"):
    read(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_named() -> None:
  with pytest.raises(UserError, match=r"data set no/such cannot be fetched .*; set tasks\.path to a file or folder"):
    read("no/such:config")


def test_the_hub_is_asked_for_repository_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
  datasets = pytest.importorskip("datasets")
  asked: list[Any] = []

  def load_dataset(*args: Any, **options: Any) -> Any:
    asked.append((args, options))
    return datasets.Dataset.from_list([{"q": "?"}])

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  assert read("no/such:config", "dev") == [("no/such config dev row 0", {"q": "?"})]
  assert read("no/such") == [("no/such train row 0", {"q": "?"})]
  assert asked == [(("no/such", "config"), {"split": "dev"}), (("no/such", None), {"split": "train"})]


def test_a_gated_set_without_a_token_says_how_to_come_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
  datasets = pytest.importorskip("datasets")

  def load_dataset(path: str, *_: Any, **__: Any) -> Any:
    raise datasets.exceptions.DatasetNotFoundError(
      f"Dataset '{path}' is a gated dataset on the Hub. You must be authenticated to access it."
    )

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  with pytest.raises(UserError) as error:
    read("gaia-benchmark/GAIA")
  said = str(error.value)
  assert "https://huggingface.co/datasets/gaia-benchmark/GAIA" in said
  assert "https://huggingface.co/settings/tokens" in said
  assert "HF_TOKEN" in said and "set tasks.path to a file" in said and "\n" not in said


def test_the_words_by_which_a_gated_set_is_known_are_those_of_datasets() -> None:
  """Should this fail, `rows` no longer tells a gated set from a missing one."""
  load = pathlib.Path(sys.modules[pytest.importorskip("datasets").load_dataset.__module__].__file__ or "")
  assert "is a gated dataset on the Hub" in load.read_text()


def test_lines_are_written_as_they_are_read(tmp_path: pathlib.Path) -> None:
  """The helper of these tests leaves the marks within text that split lines elsewhere."""
  text = pathlib.Path(write_lines(tmp_path / "a.jsonl", ROWS)).read_text(encoding="utf-8")
  assert "\u2028" in text and len(text.splitlines()) > len(ROWS) == len(text.strip("\n").split("\n"))
  assert [json.loads(line) for line in text.strip("\n").split("\n")] == ROWS
