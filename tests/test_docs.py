"""The documents say what the code does: commands parse, messages and names are the code's, figures are computed."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import math
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import jax
import pytest
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

import score_jax
from score_jax.agent.rollout import empty_trajectory
from score_jax.command import flatten_dict
from score_jax.config import load_config
from score_jax.experiment.results import ledger_to_dict
from score_jax.model.lora import NO_PARAMS
from score_jax.plan import cost as hours
from score_jax.plan.cost import make_planning_meshes, pad_vocab_for_tags, read_decoder_config
from score_jax.plan.fit import PlannedProgram, plan_program
from score_jax.plan.memory import CHIPS, Topology
from score_jax.plan.programs import RecipePrograms
from score_jax.report.charts import HEALTH_METRICS
from score_jax.rl import alarms, diagnostics, loop
from score_jax.rl.reward import StepComparisons, TierRewards, measure_groups, score_groups
from score_jax.sampler.slots import SamplerMeter
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.batch import Example, make_update, pack_examples
from score_jax.train.optimizer import make_optimizer
from score_jax.train.policy_gradient import summarize_updates
from score_jax.train.step import Trainer, make_sft_loss
from score_jax.trajectory import Ledger, Question, Status, Step, Trajectory, Usage
from tests.conftest import PASSES, Tiny
from tests.documents import DOCUMENTS, ROOT, Shown, commands, generic, metrics, overrides, rows, section

PACKAGE, BENCHMARKS = pathlib.Path(score_jax.__file__).parent, ROOT / "benchmarks"
MESH, REPORT, COSTS, TROUBLE = (ROOT / "docs" / f"{n}.md" for n in ("mesh", "report", "costs", "troubleshooting"))

#: what runs a command, or one that differs in paths and sizes alone: the start of the command -> a test
RUN = {
  "python -m score_jax.main --config=configs/quickstart.py:smoke --workdir=": (
    "tests/test_every_arm.py::test_an_arm_runs_to_its_table"
  ),
  "XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m score_jax.main --config=configs/quickstart.py:smoke": (
    "tests/runtime/test_processes.py::test_two_processes_leave_what_one_leaves"
  ),
  "python -m score_jax.main --config=configs/evaluate.py": (
    "tests/test_evaluate_models.py::test_every_benchmark_has_a_row_and_a_record_of_every_try"
  ),
  "python -m score_jax.main --config=configs/smollm2_prompted.py:smoke": (
    "tests/test_prompted_run.py::test_it_survives_its_server_and_replays_offline"
  ),
  "python -m score_jax.main --config=configs/mine.py": (
    "tests/test_your_own.py::test_a_teacher_uses_it_and_the_student_learns_from_that"
  ),
  "python -m score_jax.sandbox --functions=": "tests/test_your_own.py::test_the_function_is_there_for_code",
  "python -m score_jax.ask": "tests/test_ask.py::test_events_are_the_trajectory",
  "python -m score_jax.serve --model=smollm2": (
    "tests/test_prompted_run.py::test_it_survives_its_server_and_replays_offline"
  ),
  "python -m score_jax.serve --model=exported": (
    "tests/chat/test_service.py::test_a_server_that_is_killed_and_started_again_is_survived"
  ),
  "python -m score_jax.export --workdir=runs/quickstart": (
    "tests/test_export.py::test_a_stage_of_a_run_becomes_a_model_of_transformers"
  ),
  "python -m score_jax.export --workdir=RUN --stage=mps --trajectories=": (
    "tests/test_trl_records.py::test_a_runs_trajectories_are_written"
  ),
  "python -m score_jax.report": "tests/report/test_page.py::test_same_workdir_gives_the_same_bytes",
  "python -m score_jax.pretrain": "tests/test_pretrain.py::test_they_can_be_made_again_small",
  "python -m score_jax.plan --config=configs/score_qwen2_5_0_5b.py --topology=h100:1": (
    "tests/plan/test_plan.py::test_a_gpu_is_estimated_from_shapes"
  ),
  "python -m score_jax.sandbox": "tests/sandbox/test_command.py::test_the_command_answers_each_line_as_it_comes",
  "python -m score_jax.search.server": "tests/search/test_retriever.py::test_our_server_is_a_command",
  "python -m score_jax.grading": "tests/tasks/test_door.py::test_each_line_has_its_reply_whatever_it_is",
  "python docs/dev/draw.py": "tests/test_architecture.py::test_the_page_has_the_pictures_of_the_source",
  "python benchmarks/torture.py": "tests/test_survival.py::test_killed_runs_survive",
}
TPUS, SLURM, MINUTES = "a slice of TPUs", "a SLURM cluster", "minutes"
NETWORK, PEERS, DATA = "the network", "what it is compared with", "data sets"
#: what else a command needs: the start of the command -> that
NEEDS = {
  "python3 -m venv": NETWORK,
  "pip install": NETWORK,
  "hf auth login": NETWORK,
  "python -m pytest": "this very suite",
  "bash .ci/run": "this very suite",
  "python -m score_jax.main --config=configs/quickstart.py --workdir=": MINUTES,
  "python -m score_jax.main --config=configs/quickstart.py": MINUTES,
  "python -m score_jax.main --config=configs/smollm2_gsm8k.py:smoke": DATA,
  "python -m score_jax.plan --config=configs/score_qwen2_5_7b.py --topology=v5e:8x8": MINUTES,
  "python -m score_jax.plan --config=configs/colab_qwen2_5_0_5b.py --topology=v5e:1": MINUTES,
  "python -m score_jax.plan --config=… --topology=v5e:8x8": MINUTES,
  "python -c 'from transformers import pipeline": "torch",
  "vllm serve": "vLLM",
  "tensorboard --logdir": "tensorboard",
  "python benchmarks/train.py": PEERS,
  "python benchmarks/sampler.py": PEERS,
  "python benchmarks/search.py": DATA,
  "python benchmarks/sandbox.py": MINUTES,
  "python benchmarks/seeds.py": MINUTES,
  "python benchmarks/soak.py": MINUTES,
  "python benchmarks/mutants.py": MINUTES,
  "python benchmarks/same_run.py": MINUTES,
  "NAME=mine ZONE=us-west4-a TYPE=v5litepod-64 launch/tpu_vm.sh create": TPUS,
  "launch/tpu_vm.sh": TPUS,
  "sbatch --nodes=4 launch/slurm.sbatch": SLURM,
}
HARDWARE = (TPUS, SLURM)
SHOWN = commands()


def plain(command: str) -> str:
  """A command without what is piped into it and without the path of its Python."""
  return re.sub(r"^\.venv/bin/", "", command.rpartition(" | ")[2])


def entry(command: str) -> tuple[str, str]:
  """The start in RUN or NEEDS that says most of a command, and what stands there."""
  fitting = [start for start in RUN | NEEDS if plain(command).startswith(start)]
  assert fitting, f"{command}: neither in RUN nor in NEEDS"
  start = max(fitting, key=len)
  return start, (RUN | NEEDS)[start]


def name_of(shown: Shown) -> str:
  return f"{shown.document.relative_to(ROOT)}: {shown.text[:60]}"


def test_commands_are_found() -> None:
  assert {shown.document.name for shown in SHOWN} >= {"README.md", "mesh.md", "report.md", "costs.md"}
  assert len(SHOWN) > 40


@pytest.mark.parametrize("shown", SHOWN, ids=name_of)
def test_a_command_is_run_by_a_test_or_needs_what_a_test_has_not(shown: Shown) -> None:
  start, what = entry(shown.text)
  assert (start in RUN) != (start in NEEDS)
  if what in HARDWARE:
    assert what in shown.near, f"say beside it that it needs {what}"


def test_every_entry_is_of_a_command() -> None:
  assert {entry(shown.text)[0] for shown in SHOWN} == {*RUN, *NEEDS}


@pytest.mark.parametrize(("command", "test"), RUN.items())
def test_what_runs_a_command_exists(command: str, test: str) -> None:
  file, _, function = test.partition("::")
  text = (ROOT / file).read_text()
  assert re.search(rf"^def {function}\(", text, re.MULTILINE), test
  assert any(name in text for name in re.findall(r"score_jax\.(\S+)|(\S+\.py)", command)[0] if name), test


# Each command is parsed by its own module's flags, and not run.


class Parsed(Exception):
  """A command line was understood; what it asks for is not done."""


def words(command: str) -> list[str]:
  """Those after the environment."""
  found = shlex.split(plain(command))
  return found[next(i for i, word in enumerate(found) if "=" not in word or word.startswith("-")) :]


OURS = [s for s in SHOWN if re.search(r"python (-m score_jax|benchmarks/)|score_jax.main", s.text)]
OF_A_CONFIG = [s for s in SHOWN if "--config=" in s.text and "configs/mine.py" not in s.text]  # that one is shown there


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections'
@pytest.mark.parametrize("shown", OF_A_CONFIG, ids=name_of)
def test_the_config_is_there_and_takes_the_settings(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)
  given = [word.replace("=…", "=configs/quickstart.py", 1) for word in words(shown.text) if word.startswith("--config")]
  values = flags.FlagValues()
  line = ["command", *given]
  config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=line)
  values(line)  # of a file that is not there it complains when it is looked at
  load_config(next(word for word in given if word.startswith("--config=")).removeprefix("--config="))


@pytest.mark.parametrize(("document", "setting"), sorted(set(overrides())), ids=lambda x: str(x).rpartition("/")[2])
def test_a_setting_that_is_named_exists(document: pathlib.Path, setting: str) -> None:
  configs = [load_config(str(ROOT / "configs" / name)) for name in ("quickstart.py", "evaluate.py")]
  known = [f"--config.{key}" for c in configs for key in flatten_dict(json.loads(c.to_json_best_effort()))]
  assert any(key == setting or key.startswith(f"{setting}.") for key in known), document


@pytest.mark.parametrize("shown", OURS, ids=name_of)
def test_every_flag_is_known_to_the_command(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
  command = words(shown.text)
  at = command.index("-m") + 1 if "-m" in command else 1
  name, arguments = command[at], command[at + 1 :]
  if name in ("score_jax.main", "score_jax.plan", "score_jax.pretrain"):
    known = _absl_flags(name)
    given = [word for word in arguments if not word.startswith("--config.")]
    assert all(word.startswith("--") and word[2:].partition("=")[0] in known for word in given), given
  else:
    _parse(name, arguments, monkeypatch)


def _absl_flags(module: str) -> set[str]:
  package = hasattr(importlib.import_module(module), "__path__")
  name = f"{module}.__main__" if package else module
  importlib.import_module(name)
  found = flags.FLAGS.flags_by_module_dict()
  return {flag.name for owner in ("score_jax.command", name) for flag in found.get(owner, [])}


def _parse(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
  """Has the module's own parser read the arguments."""
  parse = argparse.ArgumentParser.parse_known_args

  def only_parse(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
    _, unknown = parse(self, *args, **kwargs)
    raise Parsed(unknown)

  monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", only_parse)
  monkeypatch.setattr(sys, "argv", [name, *(word for word in arguments if word != "…"), *("…" in arguments) * ["…"]])
  with pytest.raises((Parsed, SystemExit)) as ended:
    main = _loaded(name).main
    main(*[arguments] * len(inspect.signature(main).parameters))
  status = ended.value
  assert status.code == 0 if isinstance(status, SystemExit) else status.args == ([],), status.args


@cache
def _loaded(name: str) -> Any:
  """A module of the package, or a script."""
  if not name.endswith(".py"):
    found = importlib.import_module(name)
    return found if hasattr(found, "main") else importlib.import_module(f"{name}.__main__")
  if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))  # as Python does for a script
  spec = importlib.util.spec_from_file_location(pathlib.Path(name).stem, ROOT / name)
  assert spec is not None and spec.loader is not None
  script = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = script  # dataclasses look there
  spec.loader.exec_module(script)
  return script


# Links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(document: pathlib.Path) -> None:
  for file, heading in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", document.read_text()):
    target = document.parent / file if file else document
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    assert heading in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, (file, heading)


# Messages


@cache
def said() -> list[str]:
  """Every text of the package that is no docstring, with \0 for what is put into it."""
  found: list[str] = []
  for path in sorted(PACKAGE.rglob("*.py")):
    tree = ast.parse(path.read_text())
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    nodes = [n for n in ast.walk(tree) if id(n) not in docstrings]
    found += [_template(n) for n in nodes if isinstance(n, ast.JoinedStr)]
    found += [re.sub(r"%[sdr]", "\0", n.value) for n in nodes if isinstance(n, ast.Constant) and type(n.value) is str]
  return found


def _template(node: ast.JoinedStr) -> str:
  return "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)  # pyright: ignore[reportArgumentType, reportCallIssue]


def stands(message: str) -> bool:
  """Whether the package says so: word for word, but for what … stands for."""
  pattern = re.compile(".+".join(map(re.escape, message.split("…"))), re.DOTALL)
  return any(map(pattern.fullmatch, said()))


MESSAGES = [cells[0].strip("`") for cells in rows(TROUBLE.read_text()) if cells[0].startswith("`")]


def test_the_messages_are_many_and_each_once() -> None:
  assert len(MESSAGES) > 60 and len(set(MESSAGES)) == len(MESSAGES)


def test_each_message_has_a_meaning_and_a_remedy() -> None:
  assert all(len(cells) == 3 and all(cells) for cells in rows(TROUBLE.read_text()))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_said_by_the_package(message: str) -> None:
  assert len(message.replace("…", "").strip()) > 8, "too little of it to be known by"
  assert stands(message), message


def test_a_message_that_is_not_said_is_found() -> None:
  assert stands("rl.… = …; choose from …") and stands("--config=FILE is missing; try --config=configs/quickstart.py")
  assert not stands("rl.… = …; choose among …") and not stands("--config=FILE is missing")


# The report's words


def test_the_alarms_are_those_of_the_code() -> None:
  thresholds = load_config(str(ROOT / "configs" / "quickstart.py")).alarms
  found = rows(section(REPORT, "## Alarms"))
  assert len(found) == len(alarms.ALARM_RULES) == 14
  for sign, (name, when, *says) in zip(alarms.ALARM_RULES, found, strict=True):
    first = " by what it was at first" if sign.relative else ""
    side = "over" if sign.above else "under"
    assert name == f"`{sign.name}`" + " *" * sign.at_checkpoints_only
    assert when == f"`{sign.metric}`{first} {side} {thresholds[sign.name]:g}"
    assert says == [sign.meaning, sign.remedy]


def test_every_chart_and_status_is_explained() -> None:
  text, page = REPORT.read_text(), ast.parse((PACKAGE / "report" / "page.py").read_text())
  calls = [n for n in ast.walk(page) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "_chart"]
  titles = [a.value for n in calls if isinstance(a := n.args[0], ast.Constant) and isinstance(a.value, str)]
  assert len(titles) > 8 and [t for t in titles if f"\n| {t} |" not in text] == []
  viewer = (PACKAGE / "report" / "viewer.js").read_text()
  shown = dict(re.findall(r'(\w+): "([^"]+)"', viewer.partition("STATUS = {")[2].partition("};")[0]))
  assert {*shown} == {*get_args(Status)}
  assert [s for s in shown.values() if s.replace("unfinished", "answered") not in text] == []


def test_the_health_charts_are_explained() -> None:
  explained = re.findall(r"^\| ([^|]+) \|", section(REPORT, "## Training").partition("in Health")[2], re.MULTILINE)
  told = {name for cell in explained for name in cell.split(", ")}
  assert {label.partition(" (")[0] for _, label in HEALTH_METRICS} <= told


def written(tiny: Tiny, mesh: Mesh) -> Iterator[str]:
  """The names of all metrics that stages write, from what makes them."""
  yield from ("step", "time", "tokens_per_s", "learning_rate", "val_accuracy")  # train/sft.py, rl/loop.py
  yield from ("hosts/oldest_beat_s", "hosts/oldest_beat_process")
  updates = [(True, dict.fromkeys(_update(tiny, mesh, name), 1.0)) for name in ("sft", "rl")]
  yield from updates[0][1]
  yield from ("too_long", "too_long_tokens", "learnt_rollouts", "learnt_tokens")
  told = summarize_updates(updates[1:], 1.0)
  yield from told
  yield from alarms.measure_worst_update(told)
  yield from _of_groups()
  yield from SamplerMeter().metrics()
  yield from ("probe_pass", "probe_mean", "kl_from_start", "prefix_logprob_change")  # rl/diagnostics.py, closely
  yield from _literals(diagnostics)
  yield from (f"alarm/{sign.name}" for sign in alarms.ALARM_RULES)


def _of_groups() -> Iterator[str]:
  """Of a step with one rollout and one comparison."""
  asked = Question("q", "2 + 2?", "4")
  start, comparisons = (
    RolloutStart(asked, empty_trajectory(asked), None, 1),
    StepComparisons(lambda *_: (None, ""), None),
  )
  comparisons.comparator_for(start)(Step("first_thought", "add"), Step("first_thought", "add"))
  drawn = [[Trajectory("q", "2 + 2?", (), status="answered", grade=1.0)]]
  yield from measure_groups(
    drawn, score_groups([start], drawn, TierRewards(1.0, 0.5, 0.1), comparisons.comparator_for, scale="none")
  )
  yield from comparisons.metrics()


def _update(tiny: Tiny, mesh: Mesh, kind: str) -> dict[str, Any]:
  """The numbers of an update with every knob on, as shapes."""
  config = load_config(str(ROOT / "configs" / "quickstart.py"))
  config.rl.update({"kl": 0.1, "truncate": 2.0})
  rule = make_optimizer("adamw", lambda _: 1e-3, weight_decay=0.0, max_norm=1.0)
  plain_trainer = Trainer(tiny.graph, rule, make_sft_loss(), mesh, PASSES, NO_PARAMS)
  trainer = plain_trainer if kind == "sft" else loop.make_trainer(config, tiny.graph, mesh, NO_PARAMS)
  one = Example(*(jax.numpy.ones(4, t).__array__() for t in ("int32", "float32", "float32")))
  batch = make_update(pack_examples([one], length=8), length=8, micro=1, most=1)
  state = trainer.abstract_state(tiny.config)
  return jax.eval_shape(trainer.jit_update(state), state, NO_PARAMS, batch)[1]


def _literals(module: Any) -> Iterator[str]:
  """The keys of the dictionaries that a module of measures makes, and the names it gives means."""
  tree = ast.parse(pathlib.Path(module.__file__).read_text())
  inside = [n for f in tree.body if isinstance(f, ast.FunctionDef) and f.name != "_sections" for n in ast.walk(f)]
  keys = [k for n in inside if isinstance(n, ast.Dict) for k in n.keys]
  keys += [n.args[0] for n in inside if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "_mean_metric"]
  keys += [t.slice for n in inside if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Subscript)]
  yield from {k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)} - {"thought", "code"}


@pytest.mark.usefixtures("lenient_promotion")
def test_the_metrics_are_those_that_stages_write(tiny: Tiny, one_device: Mesh) -> None:
  assert {generic(name) for name in written(tiny, one_device)} == metrics()


# Plans, all estimated from shapes, which takes no compiling: rooflines are the same


@cache
def planned(
  path: str, topology: str, overrides: str = "{}"
) -> tuple[dict[str, dict[str, float]], list[PlannedProgram]]:
  """The stages and programs of a config with overrides (JSON) on some chips."""
  config = load_config(str(ROOT / "configs" / path))
  config.update_from_flattened_dict({name: _tuples(value) for name, value in json.loads(overrides).items()})
  kind, _, shape = topology.partition(":")
  chips = Topology(topology, CHIPS[kind], math.prod(map(int, shape.split("x"))), ())
  meshes = make_planning_meshes(config.mesh, chips)
  roles = [role for role in ("student", "teacher") if config[role].get("kind", "model") == "model"]
  student, *teacher = [
    pad_vocab_for_tags(read_decoder_config(config[role]), meshes.vocabulary_multiple) for role in roles
  ]
  recipe = RecipePrograms(config, meshes, student, teacher[0] if teacher else None)
  programs = [plan_program(program, recipe.arrays(), chips) for program in recipe.programs()]
  return hours.estimate_stage_hours(config, programs, chips), programs


def _tuples(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def gib(path: str, topology: str, overrides: dict[str, Any]) -> dict[str, str]:
  """What the student's programs take, as documents have it."""
  _, programs = planned(path, topology, json.dumps(overrides))
  return {p.name: f"{p.bytes['total'] / 2**30:.1f}" for p in programs if p.model == "student"}


def test_the_meshes_of_what_was_planned_are_the_configs() -> None:
  found = rows(section(MESH, "## What was planned"))
  assert len(found) > 5
  for name, _, shapes, _ in found:
    path = name.split("`")[1]
    mesh = load_config(str(ROOT / "configs" / path)).mesh
    three = [tuple(mesh[use]) for use in ("train", "sample", "teacher")]
    assert shapes == (f"{three[0]} each" if len(set(three)) == 1 else ", ".join(map(str, three))), path


def test_seven_billion_weights_on_eight_gpus_take_what_the_table_says() -> None:
  cells = r"^\| (\(.*?\)) \| (\(.*?\)) \| ([\d.]+) \| ([\d.]+) \|"
  found = re.findall(cells, section(MESH, "## Rules of thumb"), re.MULTILINE)
  assert len(found) == 5
  for train, sample, *takes in found:
    shapes = {"mesh.train": ast.literal_eval(train), "mesh.sample": ast.literal_eval(sample), "mesh.teacher": (1, 1, 8)}
    shapes |= {"teacher.kind": "reference", "train.micro_rows": 8, "rl.micro_rows": 8}
    programs = gib("score_qwen2_5_7b.py", "h100:8", shapes)
    assert takes == [programs["sft_step"], programs["extend"]], (train, sample)


#: what is changed, by the knob that its row names -> overrides, and the programs whose memory the row tells
CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
  "`train.micro_rows`": ({"train.micro_rows": 2, "rl.micro_rows": 2}, ("sft_step", "policy_gradient_step")),
  "`train.remat=full`": ({}, ("sft_step",)),
  "`none` 48.6": ({"train.remat": "none"}, ("sft_step",)),
  "`dots` 36.2": ({"train.remat": "dots"}, ("sft_step",)),
  "`train.logit_chunk` 256 to 64": ({"train.logit_chunk": 64}, ("sft_step",)),
  "`train.length`, `rl.length`": ({"train.length": 2048, "rl.length": 2048}, ("sft_step", "policy_gradient_step")),
  "`student.lora_rank=32`": ({"student.lora_rank": 32}, ("sft_step", "extend")),
  "`train.weights_dtype=bfloat16`": ({"train.weights_dtype": "bfloat16"}, ("sft_step", "extend")),
  "`sampler.rows` (16, 64)": ({"sampler.rows": [16]}, ("extend",)),
  "`sampler.piece` 256 to 64": ({"sampler.piece": 64}, ("extend",)),
  "`sampler.slots` 64 to 32": ({"sampler.slots": 32}, ("extend", "decode")),
  "`sampler.length` 4,096": ({"sampler.length": 2048}, ("extend", "decode")),
}


@pytest.mark.parametrize("knob", CHANGES)
def test_a_change_that_saves_memory_saves_what_the_table_says(knob: str) -> None:
  overrides, programs = CHANGES[knob]
  text = section(MESH, "## When it does not fit")
  [row] = [line for line in text.splitlines() if knob in line]
  takes = gib("score_qwen2_5_0_5b.py", "h100:1", overrides)
  assert all(re.search(rf"\b{re.escape(takes[name])}\b", row) for name in programs), takes


# Costs


@pytest.mark.parametrize("kind", ["v5e", "v5p", "v6e"])
def test_the_roofline_of_the_7b_config_is_the_plans(kind: str) -> None:
  column = 1 + ["v5e", "v5p", "v6e"].index(kind)
  topology = ("v5e:8x8", "v5p:2x4x4", "v6e:8x8")[column - 1]
  stages, programs = planned(f"score_qwen2_5_7b.py:{kind}", topology)
  found = {cells[0]: cells[column] for cells in rows(section(COSTS, "## Before a run: from the plan"))}
  wanted = {f"`{name}`": f"{cost['chip_hours']:.1f}" for name, cost in stages.items()}
  wanted |= {f"{p.model} `{p.name}`": f"{1e6 * p.roofline_s / p.tokens:.2f}" for p in programs if p.tokens}
  assert found == wanted


def test_the_worked_example_is_worked_out() -> None:
  config = load_config(str(ROOT / "configs" / "score_qwen2_5_7b.py"))
  stages, programs = planned("score_qwen2_5_7b.py:v5e", "v5e:8x8")
  each = {(p.model, p.name): p.roofline_s / p.tokens for p in programs if p.tokens}
  rollouts = config.rl.steps * config.rl.prompts * config.rl.group_size
  draws, reads = (1500 * each["student", name] for name in ("decode", "extend"))
  learns = 3000 * each["student", "policy_gradient_step"]
  weights = read_decoder_config(config.student).parameters
  flops, seconds = 8.0 * weights * rollouts * 3000, rollouts * (draws + reads + learns)
  a_rollout = {m: 1500 * (each[m, "decode"] + each[m, "extend"]) * 64 / 3600 for m in ("student", "teacher")}
  student, teacher = (0.8 * config.tasks.train * n * a_rollout[m] for m, n in (("student", 1.3), ("teacher", 12)))
  assert seconds == pytest.approx(stages["rl"]["seconds"])
  told = (
    f"{rollouts:,} rollouts",
    f"{1e3 * draws:.1f} + {1e3 * reads:.1f} + {1e3 * learns:.1f} = {1e3 * (draws + reads + learns):.1f} ms",
    f"{seconds:,.0f} s, {seconds / 3600:.2f} h, and on 64 chips {seconds * 64 / 3600:.1f} chip-hours, "
    f"{100 * draws / (draws + reads + learns):.0f} % of them drawing",
    f"{flops:.1e}".replace("e+", "e") + " FLOP",
    f"do in {flops / CHIPS['v5e'].flops / 3600:.0f} chip-hours",
    f"| student | {student:.1f} |",
    f"| teacher | {teacher:.1f} |",
    f"| together | {stages['mps']['chip_hours']:.1f} |",
  )
  text = re.sub(r"\s+", " ", COSTS.read_text())
  assert [words for words in told if words not in text] == []


def snippet(path: pathlib.Path) -> str:
  [code] = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
  return code.rpartition("\n\n")[0]  # without its last line, which runs it


def test_the_costs_of_a_run_are_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
  (tmp_path / "stages").mkdir()
  ledger = Ledger({"teacher": Usage(1_000, 20, 300, 3.6e15), "student": Usage(7, 0, 0, 1.0)}, 4, 5)
  probe = Ledger({"teacher": Usage(8)})
  (tmp_path / "stages" / "mps.json").write_text(
    json.dumps({"identity": "x", "ledger": ledger_to_dict(ledger), "measured": ledger_to_dict(probe)})
  )
  names: dict[str, Any] = {}
  exec(compile(snippet(COSTS), "costs", "exec"), names)
  names["costs"](str(tmp_path), 1e12)
  teacher, student, measured = capsys.readouterr().out.splitlines()
  assert (
    "mps   ledger  teacher      1,000 drawn        300 read         20 scored 3.60e+15 FLOP, at least 1 chip-hours"
    in teacher
  )
  assert "student" in student
  assert "mps measured  teacher          8 drawn" in measured


def test_two_models_are_compared_by_question(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """q3 has no grade of rl's: of the three others it is right on one more."""
  for model, grades in {"sft": (1.0, 0.0, 0.0, 1.0), "rl": (1.0, 1.0, 0.0, None)}.items():
    folder = tmp_path / "runs" / "quickstart" / "eval" / model
    folder.mkdir(parents=True)
    tried = [{"question_id": f"q{i}", "status": "answered", "grade": g} for i, g in enumerate(grades)]
    text = "\n".join(json.dumps({"trajectory": t}) for t in tried)
    (folder / "x-00000.jsonl").write_text(text, encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  names: dict[str, Any] = {}
  exec(compile(snippet(REPORT), "report", "exec"), names)
  sft, rl = (names["right"]("runs/quickstart", model) for model in ("sft", "rl"))
  both = [q for q in sft if q in rl]
  found = names["paired_difference"]([sft[q] for q in both], [rl[q] for q in both])
  assert (found.mean, found.n) == (pytest.approx(1 / 3), 3)
