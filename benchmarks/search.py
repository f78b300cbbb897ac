"""BM25 search over the multi-hop corpus: seconds to index and to open, a query's milliseconds, what one query finds.

    python benchmarks/search.py --data=DIR [--json]

DIR (or $SCORE_JAX_DATA/multihop) holds corpus.jsonl ("title", "text") and questions.jsonl ("dataset", "split",
"question", "gold_titles"). A question counts as found when all its gold pages are among the ten best passages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from score_jax.search.corpus import Corpus, PassageFields
from score_jax.search.passages import BM25Search, find_passages

TOP_K = 10


def timed_open(path: pathlib.Path, indexes: pathlib.Path) -> tuple[Corpus, float]:
  """A corpus, and the wall-clock seconds until it could be searched."""
  start = time.perf_counter()
  corpus = Corpus(path, fields=PassageFields("title", "text"), sha256="", indexes=indexes)
  return corpus, time.perf_counter() - start


def query_ms(search: BM25Search, queries: list[str]) -> list[float]:
  """The milliseconds of each query, from its text to the text of its result."""
  taken = []
  for query in queries:
    start = time.perf_counter()
    search(query)
    taken.append(1e3 * (time.perf_counter() - start))
  return taken


def recall(corpus: Corpus, questions: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """By data set: how many questions, and the share of those whose gold pages one query finds."""
  found: dict[str, list[bool]] = {}
  for question in questions:
    titles = {document.title for document, _ in find_passages(corpus.index, corpus, question["question"], TOP_K)}
    found.setdefault(question["dataset"], []).append(titles >= set(question["gold_titles"]))
  return {name: {"questions": len(each), "found": float(np.mean(each))} for name, each in found.items()}


def measure(folder: pathlib.Path) -> dict[str, Any]:
  questions = [json.loads(line) for line in (folder / "questions.jsonl").open("rb")]
  with tempfile.TemporaryDirectory() as indexes:
    built, index_s = timed_open(folder / "corpus.jsonl", pathlib.Path(indexes))
    built.close()
    corpus, open_s = timed_open(folder / "corpus.jsonl", pathlib.Path(indexes))
    with contextlib.closing(corpus):
      search = BM25Search(corpus.index, corpus, top_k=TOP_K, passage_chars=400)
      taken = query_ms(search, [question["question"] for question in questions])
      return {
        "passages": len(corpus),
        "index_s": index_s,
        "open_s": open_s,
        "index_mib": sum(path.stat().st_size for path in corpus.folder.iterdir()) / 2**20,
        "queries": len(taken),
        "query_ms_median": float(np.median(taken)),
        "query_ms_p99": float(np.percentile(taken, 99)),
        "dev": recall(corpus, [question for question in questions if question["split"] == "dev"]),
      }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "--data", type=pathlib.Path, default=pathlib.Path(os.environ.get("SCORE_JAX_DATA", ".")) / "multihop"
  )
  parser.add_argument("--json", action="store_true", help="print one JSON object")
  args = parser.parse_args()
  m = measure(args.data)
  if args.json:
    print(json.dumps(m))
    return
  print(f"{m['passages']} passages: indexed in {m['index_s']:.2f} s ({m['index_mib']:.1f} MiB), ", end="")
  print(f"opened again in {m['open_s']:.3f} s")
  print(f"{m['queries']} queries: median {m['query_ms_median']:.2f} ms, p99 {m['query_ms_p99']:.2f} ms")
  print(f"all gold pages among the best {TOP_K}, dev questions:")
  for name, row in m["dev"].items():
    print(f"  {name:>16} {100 * row['found']:5.1f} % of {row['questions']}")


if __name__ == "__main__":
  main()
