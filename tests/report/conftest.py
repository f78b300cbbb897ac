"""A small made-up workdir, written with the types that runs write it with, and a browser to look at its report."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from score_jax.report.table import MODEL_LABELS
from score_jax.rl.alarms import ALARM_RULES
from score_jax.trajectory import Author, Correction, Ledger, Step, Trajectory, Usage, trajectory_to_json

HOSTILE = (
  "<script>document.documentElement.dataset.planted = 1</script>",
  "</script><script>document.documentElement.dataset.planted = 2</script>",
  '<img src=x onerror="document.documentElement.dataset.planted = 3">',
  "<!--<script>",
  "<thought>x</thought>",
)


def act(thought: str, code: str, observation: str, *, author: Author = "student", tokens: int = 9) -> Step:
  ids = tuple(range(tokens))
  return Step(
    "act",
    thought,
    code,
    observation,
    "ok",
    author=author,
    tokens=ids,
    logprobs=(-0.5,) * tokens,
    observation_tokens=(1, 2, 3),
  )


def solved(i: int, *, right: bool = True, prefix_steps: int = 0, author: Author = "student") -> Trajectory:
  """Two acts after a plan; the answer is 42 where it is right."""
  plan = Step("first_thought", f"First I double {i}, then I add.", author=author, tokens=(1,) * 7)
  first = act("I double.", f"x = {i} * 2\nprint(x)", f"{2 * i}\n", author=author)
  last = act("I submit it.", "final_answer_print(x + 1)", "42\n", author=author)
  return Trajectory(
    question_id=f"q{i}",
    question=f"What is {i} doubled, and one more?",
    prompt_tokens=tuple(range(12)),
    steps=(plan, first, last),
    status="answered",
    answer="42" if right else "41",
    grade=1.0 if right else 0.0,
    grade_reason="equal" if right else "not equal",
    prefix_steps=prefix_steps,
  )


def corrected(i: int) -> Trajectory:
  wrong = act("I triple.", f"x = {i} * 3\nprint(x)", f"{3 * i}\n")
  trajectory = solved(i)
  replacement = dataclasses.replace(trajectory.steps[1], author="teacher")
  correction = Correction(
    step=1,
    mistakes=(wrong, dataclasses.replace(wrong, thought="I triple again.")),
    replacement=replacement,
    diagnosis="It triples where the question doubles.",
    verified="student_success",
    values={"before": 0.9, "after": 0.1, "corrected": 0.75, "redrawn": 0.25, "lift": 0.5},
  )
  steps = (trajectory.steps[0], replacement, trajectory.steps[2])
  return dataclasses.replace(trajectory, steps=steps, corrections=(correction,))


def hostile() -> Trajectory:
  """A corrected trajectory with markup in every text that a model, a tool or a data set writes."""
  text = "\n".join(HOSTILE)
  step = act(text, text, text)
  plan = Step("first_thought", text, tokens=(1,))
  correction = Correction(1, (step,), dataclasses.replace(step, author="teacher"), text, text, {"lift": math.nan})
  return Trajectory("q<b>", text, (1, 2), (plan, step), "answered", text, 1.0, text, corrections=(correction,))


def row(model: str, benchmark: str, accuracy: float) -> dict[str, Any]:
  i = list(MODEL_LABELS).index(model)
  student, teacher = Usage(1_234_567 * i, 0, 2_000_000 * i, 3.5e15 * i), Usage(40_000, 100, 9_900, 1.25e15)
  ledger = Ledger({"student": student, "teacher": teacher}, grader_calls=9_999, tool_calls=10_000 + i)
  return {
    "model": model,
    "benchmark": benchmark,
    "accuracy": accuracy,
    "n": 1200,
    "low": max(0.0, accuracy - 0.03),
    "high": accuracy + 0.025,
    "ledger": dataclasses.asdict(ledger),
    "weights_sha256": "0" * 64,
  }


def write_lines(path: Path, lines: list[str]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{line}\n" for line in lines))


def learning(stage: str, steps: int) -> list[str]:
  """Metric lines as a training stage writes them, the last one cut off as by a kill."""
  lines, place = [], list(MODEL_LABELS).index(stage)
  for step in range(steps):
    done = step / steps
    line = {
      "step": step,
      "time": 1e9 + step,
      "loss": (2.5 - 0.3 * place) * math.exp(-3 * done) + 0.05 * math.sin(7 * step),
    }
    line |= {"learning_rate": 1e-4, "grad_norm": 1.5 - done, "tokens_per_s": 1000.0 + step}
    if stage.startswith("rl"):
      final = 0.25 + (0.75 - 0.05 * place) * done + 0.05 * math.sin(5 * step)
      line |= {"loss": 0.02 * math.sin(3 * step), "reward_mean": final, "accuracy": final}
      line |= {"tier_final": final, "tier_key": 0.1, "tier_avoid": 0.05, "tier_none": 0.85 - final}
      line |= {
        "no_signal_groups": 0.2005 + 0.3 * done,
        "logprob_gap": 1e-4 * (1 + math.sin(step)),
        "entropy": 1 - done / 2,
      }
      line |= {"kl_sampler": 0.002 * place * done, "ess": 1 - 0.1 * done, "generated_tokens": 4000}
      line |= {"clip_share_low": 0.01 * done, "clip_share_high": 0.02 * done}
      if stage == "rl":
        line["alarm/no_signal"] = float(step > 55)
    if step % 10 == 0:
      line["val_accuracy"] = 0.05 * place + 0.6 * done
    lines.append(json.dumps(line))
  return [*lines, lines[-1][: len(lines[-1]) // 2]]


@pytest.fixture(scope="session")
def hostile_texts() -> tuple[str, ...]:
  return HOSTILE


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The workdir of a finished small run."""
  root = tmp_path_factory.mktemp("runs") / "made_up"
  root.mkdir()
  alarms = {"window": 5} | {sign.name: 0.4 for sign in ALARM_RULES}
  config = {"seed": 7, "alarms": alarms, "rl": {"reward": "tiers", "learning_rate": 7e-7}, "note": HOSTILE[1]}
  (root / "config.json").write_text(
    json.dumps({"config": config, "versions": {"jax": "0.10.2", "score_jax": "0.1.0"}, "commit": "c0ffee" * 6})
  )
  accuracies = {"teacher": 0.97, "untrained": 0.03, "warm_start": 0.41, "bc": 0.55, "sft": 0.68, "rl": 0.9}
  accuracies["rl_from_question"] = 0.8
  rows = [row(m, b, a * scale) for m, a in accuracies.items() for b, scale in (("chains", 1.0), ("longer_chains", 0.7))]
  (root / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
  for stage in ("warm_start", "bc", "sft"):
    write_lines(root / f"metrics/{stage}.jsonl", learning(stage, 120))
  for stage in ("rl", "rl_from_question"):
    write_lines(root / f"metrics/{stage}.jsonl", learning(stage, 80))
  stages = {
    "warm_start": [solved(i, author="teacher") for i in range(4)],
    "mps": [
      *(solved(i) for i in range(70)),
      solved(70, right=False),
      hostile(),
      *(corrected(i) for i in range(71, 90)),
    ],
    "rl": [solved(i, right=i % 3 > 0, prefix_steps=2) for i in range(80)],
  }
  for stage, trajectories in stages.items():
    write_lines(root / f"trajectories/{stage}/part-00000.jsonl", list(map(trajectory_to_json, trajectories)))
  write_lines(root / "trajectories/mps/part-00001.jsonl", ["{broken", trajectory_to_json(corrected(90))])
  summary = {
    "questions": 1000,
    "solved_unaided": 610,
    "solved": {"1": 153, "2": 27, "4": 6},
    "hard": 120,
    "undecided": 30,
    "unlocated": 30,
    "not_kept": 14,
    "quarantined": 10,
    "first_error_step": {"0": 12, "1": 140, "2": 99, "3": 60, "5": 9},
    "lift_mean": 0.31,
    "lift_n": 280,
    "teacher_success_by_depth": {str(d): {"successes": 96 - 9 * d, "tries": 100 - d} for d in range(5)},
    "teacher_accuracy": 0.97,
  }
  (root / "trajectories/mps/summary.json").write_text(json.dumps(summary))
  for m, model in enumerate(MODEL_LABELS):
    for benchmark in ("chains", "longer_chains"):
      tries = [
        (2 + i % 4, solved(i // 2, right=(i * 37 + m * 11) % 100 < 25 + 12 * m - 6 * (i % 4))) for i in range(80)
      ]
      lines = [
        json.dumps({"question_steps": steps, "reference": "42", "trajectory": json.loads(trajectory_to_json(tried))})
        for steps, tried in tries
      ]
      write_lines(root / f"eval/{model}/{benchmark}-00000.jsonl", lines)
  return root


class Dom(html.parser.HTMLParser):
  """The elements of a document, and the text that a reader sees."""

  def __init__(self, text: str):
    super().__init__()
    self.source = text
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.seen = ""
    self._hidden = 0
    self.feed(text)

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))
    self._hidden += tag in ("script", "style", "title")

  def handle_endtag(self, tag: str) -> None:
    self._hidden -= tag in ("script", "style", "title")

  def handle_data(self, data: str) -> None:
    if not self._hidden:
      self.seen += data

  def count(self, tag: str, **attributes: str) -> int:
    return sum(t == tag and attributes.items() <= a.items() for t, a in self.elements)


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Dom]:
  """Opens a page in headless Chromium, gives its document once the scripts have run; the console must stay silent."""
  chromium = shutil.which("chromium")
  if chromium is None:
    pytest.skip("needs a chromium binary on the PATH")
  profile = tmp_path_factory.mktemp("chromium")
  switches = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=3000 --enable-logging=stderr --v=0 --dump-dom"
  )

  def opened(page: Path) -> Dom:
    command = [chromium, *switches.split(), f"--user-data-dir={profile}", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return Dom(done.stdout)

  return opened
