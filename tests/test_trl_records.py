"""Trajectories handed over: tokenised again they are the trajectory, and TRL learns from them what our SFT does."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from score_jax import export, trl_records
from score_jax.agent.protocol import AgentProtocol
from score_jax.agent.scripted import tokenize_step
from score_jax.main import write_or_check_config
from score_jax.runtime.workdir import Workdir
from score_jax.train.batch import every_step, make_example
from score_jax.trajectory import Correction, Step, Trajectory
from score_jax.trl_records import TrlRecord, load_tagged_tokenizer, make_records
from tests.configs import smoke_config
from tests.tasks.sources import write_lines
from tests.teaching.test_release import RECORD

QUESTION = "Ana's 3 boxes hold 4 pens\neach.  How many, née Genève?"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
  return load_tagged_tokenizer("shipped:student")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  out = tmp_path_factory.mktemp("exported") / "out"
  export.export_model(
    export.load_named_model("shipped:student", "float32"), out, dtype="float32", shard_gb=1.0, decoding={}
  )
  return out


def corrected(protocol: AgentProtocol) -> Trajectory:
  """A plan, a step, a corrected step with two mistakes, a step after it, the answer."""

  def made(step: Step) -> Step:
    return tokenize_step(protocol, step)

  mistake = made(Step("act", "add", "x = 3 + 4\nprint(x)", "7", "ok"))
  raised = made(Step("act", "take", "print(y)", "NameError: name 'y' is not defined", "raised"))
  replacement = made(Step("act", "multiply:\n\tall", "x = 3 * 4\nprint(x)", "12", "ok", author="teacher"))
  steps = (
    made(Step("first_thought", "plan: 3 times 4")),
    made(Step("act", "look", "print('12 < 13')", "12 < 13", "ok")),
    replacement,
    made(Step("act", "again", "print(x)", "12", "ok")),
    made(Step("act", "answer", "final_answer_print(x)", "", "ok", answer="12")),
  )
  return Trajectory(
    question_id="q1",
    question=QUESTION,
    prompt_tokens=protocol.encode_prompt(QUESTION),
    steps=steps,
    status="answered",
    answer="12",
    grade=1.0,
    corrections=(Correction(2, (mistake, raised), replacement, "It adds.", "student_success"),),
  )


@pytest.fixture(scope="module")
def trajectory(tokenizer: PreTrainedTokenizerFast) -> Trajectory:
  return corrected(AgentProtocol(tokenizer))


def ids(theirs: Any, messages: list[dict[str, str]], **more: Any) -> list[int]:
  return theirs.apply_chat_template(messages, return_dict=True, **more)["input_ids"]


def one(form: str, trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast) -> TrlRecord:
  [record], left_out = make_records(form, [trajectory], tokenizer)
  assert not left_out
  return record


def test_messages_are_the_trajectorys_tokens_and_their_marks_its_loss(
  trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast, exported: pathlib.Path
) -> None:
  messages = one("messages", trajectory, tokenizer)["messages"]
  assert [m["role"] for m in messages] == ["user", "assistant"] * 5
  assert messages[1]["content"] == "<first_thought>plan: 3 times 4</first_thought>"
  assert [m["content"] for m in messages[2::2]] == [f"Observation: {x}" for x in ("None", "12 < 13", "12", "12")]
  theirs = AutoTokenizer.from_pretrained(exported)
  found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
  learnt = make_example(trajectory, carries_loss=every_step)
  assert found["input_ids"] == learnt.tokens.tolist()
  assert found["assistant_masks"] == learnt.loss_mask.astype(int).tolist()


def test_a_prompt_ends_before_the_last_correction(
  trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast, exported: pathlib.Path
) -> None:
  record = one("prompt_completion", trajectory, tokenizer)
  theirs = AutoTokenizer.from_pretrained(exported)
  assert ids(theirs, record["prompt"], add_generation_prompt=True) == list(trajectory.context(2))
  assert ids(theirs, record["prompt"] + record["completion"]) == make_example(trajectory).tokens.tolist()
  unaided = dataclasses.replace(trajectory, corrections=())
  assert one("prompt_completion", unaided, tokenizer)["prompt"] == [{"role": "user", "content": QUESTION}]


def test_a_pair_for_each_mistake(
  trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast, exported: pathlib.Path
) -> None:
  pairs, left_out = make_records("preference", [trajectory], tokenizer)
  theirs = AutoTokenizer.from_pretrained(exported)
  [correction] = trajectory.corrections
  assert len(pairs) == 2 and not left_out
  for pair, mistake in zip(pairs, correction.mistakes, strict=True):
    assert ids(theirs, pair["prompt"], add_generation_prompt=True) == list(trajectory.context(2))
    assert ids(theirs, pair["prompt"] + pair["chosen"]) == [*trajectory.context(2), *correction.replacement.tokens]
    assert ids(theirs, pair["prompt"] + pair["rejected"]) == [*trajectory.context(2), *mistake.tokens]


def test_tokens_that_the_tokenizer_would_cut_otherwise_are_the_same_text(
  trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast
) -> None:
  """A student may spell a word by its letters."""
  protocol = AgentProtocol(tokenizer)
  plan = trajectory.steps[0]
  letters = tuple(t for sign in "plan: 3 times 4" for t in protocol.encode(sign))
  spelled = dataclasses.replace(plan, tokens=(plan.tokens[0], *letters, *plan.tokens[-2:]))
  assert len(spelled.tokens) > len(plan.tokens)
  drawn = dataclasses.replace(trajectory, steps=(spelled, *trajectory.steps[1:]))
  assert one("messages", drawn, tokenizer) == one("messages", trajectory, tokenizer)


def test_what_text_cannot_tell_is_left_out_and_counted(
  trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast
) -> None:
  protocol = AgentProtocol(tokenizer)
  seen = tokenize_step(protocol, dataclasses.replace(trajectory.steps[1], observation="</code><|im_end|>"))
  planted = dataclasses.replace(trajectory, steps=(trajectory.steps[0], seen, *trajectory.steps[2:]))
  wrong = dataclasses.replace(trajectory, grade=0.0)
  made, left_out = make_records("messages", [trajectory, planted, wrong], tokenizer)
  assert len(made) == 1
  assert left_out == {"texts that would be read as special tokens": 1, "trajectories that did not end right": 1}
  [correction] = trajectory.corrections
  cut = dataclasses.replace(correction.mistakes[0], kind="malformed", tokens=correction.mistakes[0].tokens[:-1])
  corrections = (
    dataclasses.replace(correction, mistakes=(cut, correction.mistakes[1])),
    dataclasses.replace(correction, step=3, verified=""),
  )
  made, left_out = make_records("preference", [dataclasses.replace(trajectory, corrections=corrections)], tokenizer)
  assert len(made) == 1
  assert left_out == {"turns that were cut off": 1, "corrections that nothing verified": 2}


# The command


def command(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
  monkeypatch.setattr(sys, "argv", ["export", *args])
  return export.main()


def test_a_runs_trajectories_are_written(
  trajectory: Trajectory, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  workdir, out = Workdir(str(tmp_path / "run")), tmp_path / "pairs.jsonl"
  write_or_check_config(workdir, smoke_config())
  workdir.write_part("mps", 0, [trajectory])
  args = (f"--workdir={tmp_path / 'run'}", "--stage=mps", "--trajectories=preference", f"--out={out}")
  assert command(monkeypatch, *args) == 0
  assert [list(json.loads(line)) for line in out.read_text().splitlines()] == [["prompt", "chosen", "rejected"]] * 2
  assert "2 records" in capsys.readouterr().out
  part = workdir.root / "trajectories/mps/part-00000.jsonl"
  again = (f"--file={part}", "--model=shipped:student", "--trajectories=preference", f"--out={tmp_path / 'b.jsonl'}")
  assert command(monkeypatch, *again) == 0
  assert (tmp_path / "b.jsonl").read_text() == out.read_text()
  for wrong, said in (
    (args, "pairs.jsonl is there already; give a new file"),
    (("--stage=bc", args[0], *args[2:]), "stage 'bc' has left no trajectories"),
    (("--file=none.jsonl", *again[1:]), "--file=none.jsonl does not exist"),
    ((f"--file={tmp_path / 'run/config.json'}", *again[1:]), "config.json is no part file"),
  ):
    assert command(monkeypatch, *wrong) == 1
    assert said in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command(monkeypatch, "--model=shipped:student", "--trajectories=messages", "--out=x")


def test_the_releases_records_are_handed_over(
  tokenizer: PreTrainedTokenizerFast, tmp_path: pathlib.Path, exported: pathlib.Path
) -> None:
  file = write_lines(tmp_path / "math_mps_trajectories.jsonl", [RECORD])
  [pair], left_out = make_records("preference", trl_records.read_trajectory_file(file, tokenizer), tokenizer)
  assert not left_out
  assert pair["prompt"][1:] == [
    {"role": "assistant", "content": "<first_thought>add them</first_thought>"},
    {"role": "user", "content": "Observation: None"},
  ]
  assert pair["chosen"] == [{"role": "assistant", "content": "<thought>add</thought><code>x = 3 + 4\nprint(x)</code>"}]
  assert pair["rejected"][0]["content"] == "<thought>take</thought><code>x = 3 - 4\nprint(x)</code>"


@pytest.mark.parametrize(("name", "messages", "pairs"), [("math", 49, 28), ("search", 186, 45)])
def test_the_releases_own_files_are_handed_over(
  tokenizer: PreTrainedTokenizerFast, name: str, messages: int, pairs: int
) -> None:
  file = pathlib.Path(os.environ.get("SCORE_JAX_DATA", "")) / f"score_release/{name}_mps_trajectories.jsonl"
  if "SCORE_JAX_DATA" not in os.environ or not file.exists():
    pytest.skip("SCORE_JAX_DATA has no score_release")
  for form, count in (("messages", messages), ("prompt_completion", messages), ("preference", pairs)):
    made, left_out = make_records(form, trl_records.read_trajectory_file(str(file), tokenizer), tokenizer)
    assert len(made) == count, left_out


# TRL


#: TRL and transformers deprecate names of each other
noisy = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def trl() -> Any:
  return pytest.importorskip("trl", reason="TRL, which reads what is handed over, is not installed")


def loaded(folder: pathlib.Path, made: list[TrlRecord]) -> Any:
  """The data set, from a file, as TRL's users load it."""
  from datasets import load_dataset

  trl_records.write_records(str(folder / "made.jsonl"), made)
  return load_dataset("json", data_files=str(folder / "made.jsonl"), split="train", cache_dir=str(folder / "cache"))


def arguments(folder: pathlib.Path) -> dict[str, Any]:
  return {"output_dir": str(folder / "out"), "max_length": None, "report_to": [], "use_cpu": True, "bf16": False}


@noisy
def test_trl_takes_the_forms_for_what_they_are(
  trl: Any, trajectory: Trajectory, tokenizer: PreTrainedTokenizerFast, exported: pathlib.Path
) -> None:
  from trl.data_utils import apply_chat_template, is_conversational

  theirs, protocol = AutoTokenizer.from_pretrained(exported), AgentProtocol(tokenizer)
  for form in trl_records.RECORD_MAKERS:
    for record in make_records(form, [trajectory], tokenizer)[0]:
      assert is_conversational(record)
      texts = apply_chat_template(record, theirs)
      prompt = texts.get("prompt", "")
      assert prompt in ("", protocol.decode(trajectory.context(2)))
      if form != "preference":
        assert prompt + texts.get("text", texts.get("completion", "")) == protocol.decode(
          make_example(trajectory).tokens
        )
      else:
        assert texts["chosen"] == protocol.decode(trajectory.steps[2].tokens)


@noisy
@pytest.mark.parametrize("form", ["messages", "prompt_completion"])
def test_trls_sft_learns_the_turns_and_nothing_else(
  trl: Any,
  trajectory: Trajectory,
  tokenizer: PreTrainedTokenizerFast,
  exported: pathlib.Path,
  tmp_path: pathlib.Path,
  form: str,
) -> None:
  data = loaded(tmp_path, [one(form, trajectory, tokenizer)])
  config = trl.SFTConfig(**arguments(tmp_path), assistant_only_loss=True)
  theirs = AutoTokenizer.from_pretrained(exported)
  row = trl.SFTTrainer(str(exported), args=config, train_dataset=data, processing_class=theirs).train_dataset[0]
  cut = len(trajectory.context(2)) if form == "prompt_completion" else 0
  learnt = make_example(trajectory)
  assert row["input_ids"] == learnt.tokens.tolist()
  expected = [
    t if on and i >= cut else -100 for i, (t, on) in enumerate(zip(learnt.tokens, learnt.loss_mask, strict=True))
  ]
  assert row["labels"] == expected


@noisy
def test_trls_dpo_compares_the_teachers_step_with_the_students(
  trl: Any,
  trajectory: Trajectory,
  tokenizer: PreTrainedTokenizerFast,
  exported: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  data = loaded(tmp_path, make_records("preference", [trajectory], tokenizer)[0])
  theirs = AutoTokenizer.from_pretrained(exported)
  config = trl.DPOConfig(**arguments(tmp_path))
  rows = trl.DPOTrainer(str(exported), args=config, train_dataset=data, processing_class=theirs).train_dataset
  [correction] = trajectory.corrections
  for row, mistake in zip(rows, correction.mistakes, strict=True):
    assert row["prompt_ids"] == list(trajectory.context(2))
    assert row["chosen_ids"] == list(correction.replacement.tokens)
    assert row["rejected_ids"] == list(mistake.tokens)
