"""The paper's own figures, to stand beside ours: arXiv 2509.14257, its second and third version.

Averages alone: figures of single benchmarks are not at hand, and no cell is filled by guess. They were measured with up
to five retries of a run that erred and a model as the judge, so a distance of a few points from ours says little.
"""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "arXiv 2509.14257, by version; measured with retries and a judge (score_jax/report/published.py)"

#: average -> student, or teacher -> stage that made the model -> version (empty where that is not known) -> %
FIGURES: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = {
  "math_qa_average": {
    "Qwen2.5-7B-Instruct": {
      "warm_start": {"v2": 41.7},
      "bc": {"v2": 42.5, "v3": 43.0},
      "sft": {"v2": 45.8},
      "rl": {"v2": 50.8, "v3": 52.3},
      "rl_no_key": {"v2": 49.7},
      "rl_from_question": {"v2": 48.4},
      "grpo": {"v2": 48.4, "v3": 48.2},
    },
    "Qwen2.5-3B-Instruct": {"bc": {"v2": 38.3}, "rl": {"v2": 46.7}},
    "Llama-3.1-8B-Instruct": {"bc": {"v2": 37.3}, "sft": {"v2": 40.2}, "rl": {"v2": 47.5}},
    "Qwen2.5-72B-Instruct": {"untrained": {"v2": 51.7, "v3": 51.1}},
  },
  "deep_search_average": {"Qwen3-8B": {"bc": {"": 22.8}, "grpo": {"": 22.2}, "rl": {"": 30.5}}},
}


def figure(base: str, stage: str, benchmark: str) -> str:
  """What the paper gives for a model, such as "50.8 (v2), 52.3 (v3)"; empty where it gives nothing.

  Args:
    base: the student's name, path or hub id, by the last part of which it is known.
    stage: which made the model; `untrained` of the student as it came, and of the teacher.
    benchmark: or average.
  """
  found = FIGURES.get(benchmark, {}).get(base.rstrip("/").rpartition("/")[2], {}).get(stage, {})
  return ", ".join(f"{value:.1f}" + (f" ({version})" if version else "") for version, value in found.items())
