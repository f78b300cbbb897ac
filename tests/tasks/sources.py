"""The same questions in every format that is read."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import tensorflow_datasets as tfds

ROWS: list[dict[str, Any]] = [
  {"key": "a1", "text": "Où est né l'oncle d'Ana?", "right": "Genève", "also": ["Geneva", "Genf"]},
  {"key": "a2", "text": "A line\u2028break and \u0085 within JSON text, how many?", "right": "1,042", "also": []},
  {"key": "a3", "text": 'Who said "$x^2 \\le 3$"?', "right": "nobody", "also": ["no one"]},
  *({"key": f"b{i}", "text": f"How much is {i} and {i}?", "right": str(2 * i), "also": []} for i in range(20)),
]


class Asked(tfds.core.GeneratorBasedBuilder):
  """ROWS, as tensorflow_datasets prepares them, which shuffles."""

  __module__ = "asked"  # of no package, else its files are looked for with a module that may not be installed
  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> Any:
    text = tfds.features.Text()
    features = {"key": text, "text": text, "right": text, "also": tfds.features.Sequence(text)}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((row["key"], row) for row in ROWS)


def write_lines(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> str:
  file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
  return str(file)


def written(folder: pathlib.Path) -> dict[str, str]:
  """Format -> path, of ROWS written into a folder in every format."""
  (folder / "list.json").write_text(json.dumps(ROWS))
  (folder / "examples.json").write_text(json.dumps({"metadata": {"n": 3}, "examples": ROWS}))
  (folder / "lines").mkdir()
  write_lines(folder / "lines" / "train.jsonl", ROWS)
  found = datasets.Dataset.from_list(ROWS)
  found.save_to_disk(str(folder / "saved"))
  datasets.DatasetDict({"test": found.select([0]), "train": found}).save_to_disk(str(folder / "saved_splits"))
  (folder / "tree" / "data").mkdir(parents=True)
  found.to_parquet(str(folder / "tree" / "data" / "train-00000-of-00001.parquet"))
  Asked(data_dir=folder / "tfds", file_format="array_record").download_and_prepare()
  return {
    "lines": write_lines(folder / "questions.jsonl", ROWS),
    "list": str(folder / "list.json"),
    "examples": str(folder / "examples.json"),
    "folder of lines": str(folder / "lines"),
    "save_to_disk": str(folder / "saved"),
    "save_to_disk, splits": str(folder / "saved_splits"),
    "parquet": str(folder / "tree" / "data" / "train-00000-of-00001.parquet"),
    "folder of parquet": str(folder / "tree"),
    "array_record": str(folder / "tfds" / "asked" / "1.0.0"),
  }
