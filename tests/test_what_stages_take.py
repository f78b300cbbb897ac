"""What each stage of a whole run took: questions, prefixes, weights, budgets, tokens, counted anew in the tests.

The parts have tests of their own. Here it is what one hands to another, on a run whose models are scripted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from score_jax.evaluate import hash_weights
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.stages import STAGES
from score_jax.export import load_stage_model
from score_jax.runtime.workdir import Workdir
from score_jax.tasks.splits import hash_fraction
from score_jax.training_data import RL_STARTS
from score_jax.trajectory import Question, Trajectory
from score_jax.trl_records import read_run_trajectories
from tests.scripted_run import ACTS, KEEP, MENDED, OUTCOMES, SHARE, Record, Updated, config, ran

pytestmark = pytest.mark.usefixtures("lenient_promotion", "on_one_device")

ARMS = (
  "bc_first_thought",
  "grpo",
  "sft_corrected_only",
  "sft_rejection",
  "sft_redraw",
  "sft_random_k",
  "sft_teacher_finishes",
)
CONTROLS = ("sft_rejection", "sft_redraw", "sft_random_k", "sft_teacher_finishes")
BY_STEPS, BY_BUDGET = ("rl",), ("rl_from_question", "grpo")
IMITATE = ("warm_start", "sft", "sft_corrected_only", *CONTROLS, "bc", "bc_first_thought")
NOT_TAUGHT = ("validation/", "probe/", "eval/", "depth/")  # what measures only


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, lenient_promotion: None, on_one_device: None) -> Record:
  folder = tmp_path_factory.mktemp("scripted")
  c = config(folder)
  c.arms = ARMS
  return ran(folder / "run", c)


def asked(record: Record, stage: str, prefix: str | None = None) -> list[str]:
  """The questions that the rollouts of a stage start from, in order."""
  return [request.question.id for rolled in record.named(stage, prefix) for request in rolled.requests]


def drawn(trajectory: Trajectory) -> int:
  return sum(len(step.tokens) for step in trajectory.steps[trajectory.prefix_steps :])


def questions(record: Record) -> dict[str, Question]:
  return {r.question.id: r.question for rolled in record.rollouts for r in rolled.requests}


def half(record: Record, *, first: bool) -> set[str]:
  """The questions that mentoring had for SFT, or for RL."""
  known, salt = questions(record), f"{record.config.seed}/half"
  return {q for q in record.read("split.json")["mps"] if (hash_fraction(known[q], salt) < 0.5) == first}


def of_kinds(names: Iterable[str], kinds: str) -> set[str]:
  return {name for name in names if name[0] in kinds}


def learnt_from(record: Record, stage: str) -> Counter[str]:
  """The questions of the sequences that a stage was trained on."""
  prompts = {t.prompt_tokens: t.question_id for rolled in record.rollouts for group in rolled.groups for t in group}
  sizes = {len(prompt) for prompt in prompts}
  found: Counter[str] = Counter()
  for update in record.of(stage):
    for tokens, *_ in update.learnt():
      found.update(prompts[tokens[:size]] for size in sizes if tokens[:size] in prompts)
  return found


# Which questions


def test_the_warm_start_and_mentoring_share_no_question(record: Record) -> None:
  warm, mentored = set(asked(record, "warm_start")), set(asked(record, "mps", "mps")) - {""}
  known = questions(record)
  train = set(asked(record, "bc", "bc/0"))
  assert not warm & mentored and warm | mentored == train and len(train) == record.config.tasks.train
  assert warm == {q for q in train if hash_fraction(known[q], f"{record.config.seed}/warm_start") < SHARE}
  parts = record.read("split.json")
  assert (set(parts["warm_start"]), set(parts["mps"])) == (warm, mentored)


def test_sft_and_rl_have_a_half_each_of_what_was_mentored(record: Record) -> None:
  sft, rl = set(learnt_from(record, "sft")), set(asked(record, "rl"))
  assert sft <= half(record, first=True) and rl <= half(record, first=False)
  assert of_kinds(sft, "elt") == of_kinds(half(record, first=True), "elt"), "all that were solved"
  assert of_kinds(rl, "elthk") == of_kinds(half(record, first=False), "elthk"), "all that were solved or hard"
  known, seed = questions(record), record.config.seed
  assert of_kinds(sft, "u") == {
    q for q in of_kinds(half(record, first=True), "u") if hash_fraction(known[q], f"{seed}/keep_unaided") < KEEP
  }
  assert of_kinds(rl, "u") == {
    q for q in of_kinds(half(record, first=False), "u") if hash_fraction(known[q], f"{seed}/rl") < KEEP
  }
  assert not of_kinds(sft, "hkq") and not of_kinds(rl, "q")


def test_the_arm_from_the_question_has_rls_own_questions_in_rls_order(record: Record) -> None:
  rl, found = asked(record, "rl"), asked(record, "rl_from_question")
  assert all(ours == theirs for ours, theirs in zip(rl, found, strict=False))
  assert set(found) <= set(rl) <= half(record, first=False)
  assert all(not r.start.steps for rolled in record.named("rl_from_question") for r in rolled.requests)


def test_rl_from_all_questions_has_all_of_rls_half(record: Record) -> None:
  with Experiment(record.config, Workdir(str(record.folder))) as run:
    lesson = RL_STARTS["questions_for_rl"](run, "rl_from_all_questions")
  assert {start.question.id for start in lesson.entries} == half(record, first=False)
  assert all((start.prefix.steps, start.horizon) == ((), ACTS) for start in lesson.entries)


def test_grpo_has_all_the_mentored_questions(record: Record) -> None:
  found, mentored = asked(record, "grpo"), record.read("split.json")["mps"]
  assert set(found) <= set(mentored)
  assert len(set(found[: len(mentored)])) == len(found[: len(mentored)]), "each once, before one comes again"
  assert all(of_kinds(found, kind) for kind in OUTCOMES), "whatever mentoring made of them"
  assert set(found) & half(record, first=True) and set(found) & half(record, first=False)
  assert record.read("stages/grpo.json")["starts"] == len(mentored)


@pytest.mark.parametrize("stage", CONTROLS)
def test_a_control_tries_what_failed_in_sfts_half_and_nothing_that_is_quarantined(record: Record, stage: str) -> None:
  again = {
    request.question.id
    for rolled in record.rollouts
    if rolled.stage == stage and not rolled.named("validation/")
    for request in rolled.requests
  }
  failed = of_kinds(half(record, first=True), "elthk")
  located = of_kinds(failed, "eltk")  # of what is hard the teacher names no step
  assert of_kinds(half(record, first=True), "q") and of_kinds(failed, "h")
  assert again == (located if stage in ("sft_redraw", "sft_teacher_finishes") else failed)


def test_every_arm_of_sft_keeps_the_same_unaided_ones_and_mends_no_more(record: Record) -> None:
  sft = learnt_from(record, "sft")
  for stage in (*CONTROLS, "sft_corrected_only"):
    found = learnt_from(record, stage)
    kept = of_kinds(sft, "u") if stage != "sft_corrected_only" else set()  # they have no step of the teacher
    assert of_kinds(found, "u") == kept, stage
    assert len(set(found) - kept) <= len(of_kinds(sft, "elt")), stage
    assert not of_kinds(found, "q"), stage


def test_no_test_question_is_in_anything_but_the_evaluation(record: Record) -> None:
  parts = record.read("split.json")
  for rolled in record.rollouts:
    seen = {r.question.id for r in rolled.requests}
    if rolled.stage.startswith("eval_"):
      assert seen <= set(parts["test"])
    elif rolled.named("validation/") or rolled.named("probe/"):
      size = record.config.alarms.probe if rolled.named("probe/") else None
      assert [r.question.id for r in rolled.requests] == parts["validation"][:size]
    else:
      assert not seen & {*parts["test"], *parts["validation"]}


# From which weights


def test_every_model_begins_where_its_entry_says_and_is_the_one_that_is_evaluated(record: Record) -> None:
  known = {row["model"]: row["weights_sha256"] for row in record.read("results.json")["rows"]}
  assert len(set(known.values())) == len(known), "no two are the same"
  for stage in (*IMITATE, *BY_STEPS, *BY_BUDGET):
    first = record.of(stage)[0]
    assert (first.number, first.weights) == (0, known[STAGES[stage].init_from]), stage
    assert record.named(stage, "validation")[-1].weights == known[stage], stage
  for model in known:
    who = "teacher" if model == "teacher" else "student"  # whose temperature, slots and ledger
    assert {(r.model, r.weights) for r in record.rollouts if r.stage == f"eval_{model}"} == {(who, known[model])}


def test_what_teaches_and_explores_has_the_weights_that_are_its(record: Record) -> None:
  known = {row["model"]: row["weights_sha256"] for row in record.read("results.json")["rows"]}
  for rolled in record.rollouts:
    if rolled.model == "teacher":
      assert rolled.weights == known["teacher"]
    elif rolled.stage == "mps" or (rolled.stage in CONTROLS and not rolled.named("validation/")):
      assert rolled.weights == known["warm_start"]
  for stage in (*BY_STEPS, *BY_BUDGET):
    first, *later = [rolled.weights for rolled in record.named(stage)]
    assert first == known[STAGES[stage].init_from]
    assert first not in later and len(set(later)) == len(later), "each step draws from the weights of its own"


def test_an_exported_stage_is_the_one_that_was_evaluated_and_draws_as_it_did(record: Record) -> None:
  known = {row["model"]: row["weights_sha256"] for row in record.read("results.json")["rows"]}
  for stage in ("sft", "rl", "untrained"):
    model, decoding = load_stage_model(str(record.folder), stage)
    assert hash_weights(model.weights) == known[stage]
    assert (decoding["do_sample"], decoding["temperature"]) == (True, record.config.student.temperature)
  handed, _ = read_run_trajectories(str(record.folder), "sft_redraw")
  assert list(handed) == record.trajectories("sft_redraw")


# How they draw


def test_each_draws_at_its_own_temperature(record: Record) -> None:
  c = record.config
  assert len({c.student.temperature, c.teacher.temperature, c.rl.temperature, 1.0}) == 4
  for rolled in record.rollouts:
    by_rl = rolled.stage in (*BY_STEPS, *BY_BUDGET) and not rolled.named("validation/")
    expected = c.teacher if rolled.model == "teacher" else c.rl if by_rl else c.student
    assert rolled.decoding.temperature == expected.temperature, rolled.requests[:1]


def test_log_probabilities_are_of_the_temperature_that_was_drawn_at(record: Record) -> None:
  c = record.config
  assert {u.temperature for u in record.updates if u.stage in (*BY_STEPS, *BY_BUDGET)} == {c.rl.temperature}
  assert {u.temperature for u in record.updates if u.stage in IMITATE} == {1.0}


def test_weights_score_at_the_temperature_of_what_they_score(record: Record) -> None:
  """Each step what it drew, by the weights that drew it; now and then what it drew by the first weights, and the
  prefixes, which the student explored, by those after the step."""
  known = {row["model"]: row["weights_sha256"] for row in record.read("results.json")["rows"]}
  c = record.config
  drew = [rolled.weights for rolled in record.named("rl")]
  after = [*drew[1:], known["rl"]]
  expected: list[tuple[float, str]] = []
  for number in range(c.rl.steps):
    expected.append((c.rl.temperature, drew[number]))
    if number != 2:  # the first, and those with a checkpoint
      expected += [(c.rl.temperature, known["sft"]), (c.student.temperature, after[number])]
  assert [(s.temperature, s.weights) for s in record.scores if s.stage == "rl"] == expected


@pytest.mark.parametrize("stage", (*BY_STEPS, *BY_BUDGET))
def test_no_two_rollouts_of_a_stage_of_rl_have_the_same_draws(record: Record, stage: str) -> None:
  names = [name for where, _, name in record.keys if where == stage and name.startswith(f"{stage}/")]
  starts = [(r.question.id, len(r.start.steps)) for rolled in record.named(stage) for r in rolled.requests]
  assert stage == "grpo" or max(Counter(starts).values()) > 1, "a start came again"
  assert len(set(names)) == len(names) == len(starts) * record.config.rl.group_size


def test_draws_are_of_the_seed_of_the_run_and_of_one_stage_each(record: Record) -> None:
  assert {seed for _, seed, _ in record.keys} == {record.config.seed}
  stages_of: dict[str, set[str]] = {}
  for stage, _, name in record.keys:
    if not name.startswith((*NOT_TAUGHT, "correct/")):  # of equal states there are equal corrections
      stages_of.setdefault(name, set()).add(stage)
  assert {len(stages) for stages in stages_of.values()} == {1}


# How far they go


def horizon(start: Trajectory) -> int:
  """H - (k - 1) from before step k; H from the question."""
  return ACTS - (len(start.steps) - 1) if start.steps else ACTS


def test_rl_goes_as_far_as_is_left_of_the_budget_of_acts(record: Record) -> None:
  requests = [r for rolled in record.named("rl") for r in rolled.requests]
  assert {len(r.start.steps) for r in requests} == {0, 1, 3}
  assert all(r.max_acts == horizon(r.start) for r in requests)
  for trajectory in record.trajectories("rl"):
    acts = sum(step.kind == "act" for step in trajectory.steps[trajectory.prefix_steps :])
    if trajectory.status == "step_limit":
      assert acts == ACTS - max(trajectory.prefix_steps - 1, 0)
  assert {t.prefix_steps for t in record.trajectories("rl") if t.status == "step_limit"} == {0, 1, 3}


def test_rl_starts_before_the_last_correction_of_the_trajectory_that_mentoring_left(record: Record) -> None:
  left = {t.question_id: t for t in record.trajectories("mps")}
  for rolled in record.named("rl"):
    for request in rolled.requests:
      place = {"e": 1, "l": 3, "t": 3}.get(request.question.id[0], 0)
      assert request.start.steps == left[request.question.id].steps[:place]
      assert not any(MENDED in step.code for step in request.start.steps[2:]) or request.question.id[0] == "t"


def test_all_else_has_the_whole_budget_of_acts(record: Record) -> None:
  for rolled in record.rollouts:
    if rolled.stage not in BY_STEPS or not rolled.named(f"{rolled.stage}/"):
      assert {r.max_acts for r in rolled.requests} <= {1 if rolled.named("correct/") else ACTS}


def test_tries_continuations_and_groups_are_as_many_as_each_setting_says(record: Record) -> None:
  c = record.config
  for rolled in record.rollouts:
    copies = {r.copies for r in rolled.requests}
    if rolled.stage.startswith("eval_"):
      assert copies == {c.eval.tries}
    elif rolled.stage in (*BY_STEPS, *BY_BUDGET):
      assert copies == ({1} if rolled.named("validation/") else {c.rl.group_size})
    elif rolled.stage == "mps" and rolled.model == "teacher":
      assert copies <= ({1} if rolled.named("correct/") else {c.mps.continuations})
    elif rolled.stage in ("sft_rejection", "sft_redraw") and rolled.named(f"{rolled.stage}/"):
      assert copies == {c.mps.corrections}
    elif rolled.model == "student" and rolled.named("mps/"):
      assert copies == {1 if rolled.requests[0].name.count("/") == 1 else c.mps.tries}
  rounds = {r.name.split("/")[1] for rolled in record.named("mps") for r in rolled.requests if "/after/" in r.name}
  assert rounds == {str(i + 1) for i in range(c.mps.corrections)}
  assert len(set(asked(record, "mps", "depth"))) == c.mps.depth_probe
  assert of_kinds(asked(record, "mps", "depth"), "u") == set(asked(record, "mps", "depth"))


# What it costs


def spent(record: Record, stage: str, model: str) -> int:
  """Tokens that a model drew in a stage to teach or to learn."""
  found = 0
  for rolled in record.rollouts:
    if rolled.stage == stage and rolled.model == model:
      for request, group in zip(rolled.requests, rolled.groups, strict=True):
        found += sum(map(drawn, group if not measures(request.name) else ()))
        if "/after/" in request.name:
          found -= sum(map(drawn, group[1:]))  # the other tries only measure its lift
  return found


def measures(name: str) -> bool:
  return name.startswith(NOT_TAUGHT) or "/before/" in name


@pytest.mark.parametrize("stage", ("warm_start", "mps", "sft", *CONTROLS[1:], *BY_STEPS, *BY_BUDGET))
def test_a_stage_books_what_was_drawn_in_it(record: Record, stage: str) -> None:
  """sft_rejection books mentoring's first attempts too, and bc_first_thought the first round of bc."""
  models = record.read(f"stages/{stage}.json")["ledger"]["models"]
  booked = {name: models.get(name, {}).get("generated", 0) for name in ("student", "teacher")}
  expected = {name: spent(record, stage, name) for name in booked}
  if stage == "sft_random_k":  # and it begins with them
    attempts = [
      t
      for r in record.named("mps")
      for q, g in zip(r.requests, r.groups, strict=True)
      for t in g
      if q.name.count("/") == 1 and q.question.id in half(record, first=True)
    ]
    quarantined = [t for t in attempts if t.question_id[0] == "q"]
    expected["student"] += sum(map(drawn, attempts)) - sum(map(drawn, quarantined))
  assert booked == expected


@pytest.mark.parametrize("stage", (*BY_STEPS, *BY_BUDGET))
def test_rl_books_what_it_drew_ran_graded_and_trained_on(record: Record, stage: str) -> None:
  rollouts = [t for rolled in record.named(stage) for group in rolled.groups for t in group]
  assert rollouts == record.trajectories(stage)
  ledger = record.read(f"stages/{stage}.json")["ledger"]
  student = ledger["models"]["student"]
  assert student["generated"] == sum(map(drawn, rollouts)) > 0
  assert ledger["tool_calls"] == sum(
    t.steps[i].kind == "act" for t in rollouts for i in range(t.prefix_steps, len(t.steps))
  )
  assert ledger["grader_calls"] == sum(t.status == "answered" for t in rollouts) > 0
  whole = sum(len(t.context()) - len(t.steps[-1].observation_tokens) for t in rollouts)
  assert student["scored"] == whole, "once, for training"


def test_bc_has_what_the_teachers_generated_tokens_of_the_whole_of_teaching_buy(record: Record) -> None:
  tokens = spent(record, "warm_start", "teacher") + spent(record, "mps", "teacher")
  shown = [t for rolled in record.named("bc") for (t,) in rolled.groups]
  sums = np.cumsum([drawn(t) for t in shown])
  bought = int((sums <= tokens).sum())
  assert 0 < bought < len(shown)
  found = record.read("stages/bc.json")
  assert (found["token_budget"], found["demonstrations"]) == (tokens, bought)
  assert found["ledger"]["models"]["teacher"]["generated"] == sums[bought - 1]
  right = [t for t in shown[:bought] if t.question_id[0] != "h"]
  assert (record.trajectories("bc"), found["right"]) == (right, len(right))
  assert learnt_from(record, "bc") == Counter(t.question_id for t in right)
  assert record.read("stages/bc_first_thought.json")["token_budget"] == tokens


@pytest.mark.parametrize(("stage", "by"), [("rl_from_question", ("rl",)), ("grpo", ("mps", "rl"))])
def test_an_arm_of_rl_ends_with_the_step_that_spends_the_students_generated_tokens(
  record: Record, stage: str, by: Sequence[str]
) -> None:
  tokens = sum(spent(record, other, "student") for other in by)
  steps = [sum(map(drawn, part)) for part in record.parts(stage)]
  assert sum(steps[:-1]) < tokens <= sum(steps)
  assert record.read(f"stages/{stage}.json")["token_budget"] == tokens


def test_what_a_model_cost_is_what_all_that_it_is_made_from_did(record: Record) -> None:
  rows = {row["model"]: row["ledger"]["models"] for row in record.read("results.json")["rows"]}
  made = {"sft": ("warm_start", "mps", "sft"), "rl": ("warm_start", "mps", "sft", "rl"), "grpo": ("warm_start", "grpo")}
  for model, stages in made.items():
    assert rows[model]["student"]["generated"] == sum(spent(record, stage, "student") for stage in stages)
    assert rows[model]["teacher"]["generated"] == sum(spent(record, stage, "teacher") for stage in stages)


# What is trained


def minibatches(record: Record, stage: str) -> list[list[list[Trajectory]]]:
  """The groups of each update: of each step the first four, then the other three."""
  c = record.config.rl
  steps = [rolled.groups for rolled in record.named(stage)]
  return [step[i : i + c.minibatch] for step in steps for i in range(0, c.prompts, c.minibatch)]


def test_rollouts_without_advantage_count_in_the_mean(record: Record) -> None:
  pairs = list(zip(minibatches(record, "rl"), record.of("rl"), strict=True))
  silent = 0
  for groups, update in pairs:
    sound = [t for group in groups for t in group if t.grade is not None]
    tokens = sum(map(drawn, sound))
    shares = np.concatenate([np.zeros(0), *(share_[mask > 0] for _, mask, _, share_ in update.learnt())])
    assert shares == pytest.approx(1 / tokens, rel=1e-5)
    silent += len(shares) < tokens
  assert silent, "a group was all right"


def test_what_is_right_in_a_group_is_made_likelier_and_the_rest_less(record: Record) -> None:
  for groups, update in zip(minibatches(record, "rl"), record.of("rl"), strict=True):
    right = {
      t.context()[: len(t.context()) - len(t.steps[-1].observation_tokens)]: (t.right, t.prefix_steps)
      for group in groups
      for t in group
    }
    seen = 0
    for tokens, mask, advantages, _ in update.learnt():
      sign = 1 if right[tokens][0] else -1
      assert (advantages[mask > 0] * sign > 0).all()
      seen += 1
    signal = [g for g in groups if len({t.right for t in g if t.grade is not None}) == 2]
    assert seen == sum(len(g) for g in signal)


def test_rl_learns_what_was_drawn_and_none_of_the_prefix(record: Record) -> None:
  known = {t.context()[: len(t.context()) - len(t.steps[-1].observation_tokens)]: t for t in record.trajectories("rl")}
  for update in record.of("rl"):
    for tokens, mask, *_ in update.learnt():
      trajectory = known[tokens]
      assert mask.sum() == drawn(trajectory)
      assert not mask[: len(trajectory.context(trajectory.prefix_steps))].any()


@pytest.mark.parametrize("stage", IMITATE)
def test_an_update_is_the_mean_over_the_learnt_tokens_of_all_its_micro_batches(record: Record, stage: str) -> None:
  c = record.config.train
  for update in record.of(stage):
    assert update.batch.tokens.shape == (math.ceil(c.rows / c.micro_rows), c.micro_rows, c.length)
    count = sum(mask.sum() for _, mask, *_ in update.learnt())
    assert count == (update.batch.loss_mask > 0).sum() == update.batch.denominator
    assert update.batch.loss_weight[update.batch.loss_mask > 0] == pytest.approx(1 / count, rel=1e-5)
  assert any(update.batch.segments[1].any() for update in record.of("bc")), "more than one micro-batch"


def test_an_update_of_rl_has_the_shape_of_its_own_settings(record: Record) -> None:
  c = record.config.rl
  shape = (math.ceil(c.minibatch * c.group_size / c.micro_rows), c.micro_rows, c.length)
  assert {u.batch.tokens.shape for stage in (*BY_STEPS, *BY_BUDGET) for u in record.of(stage)} == {shape}


def test_sft_learns_every_step_and_its_arm_the_teachers_alone(record: Record) -> None:
  known = {t.context()[: len(t.context()) - len(t.steps[-1].observation_tokens)]: t for t in record.trajectories("mps")}

  def by(author: str | None, updates: Sequence[Updated]) -> list[tuple[float, int]]:
    return [
      (float(mask.sum()), sum(len(s.tokens) for s in known[tokens].steps if author in (None, s.author)))
      for update in updates
      for tokens, mask, *_ in update.learnt()
    ]

  for author, stage in ((None, "sft"), ("teacher", "sft_corrected_only")):
    found = by(author, record.of(stage))
    assert found and all(learnt == expected for learnt, expected in found)


def test_each_stage_goes_by_its_own_settings(record: Record) -> None:
  c = record.config
  for stage in (*IMITATE, *BY_STEPS, *BY_BUDGET):
    group = c[STAGES[stage].group]
    decay = c.rl.weight_decay if STAGES[stage].group == "rl" else c.train.weight_decay
    rule = record.rules[stage]
    assert (rule["name"], rule["weight_decay"], rule["max_norm"]) == ("adamw", decay, c.train.max_norm)
    assert rule["rate"] == pytest.approx(group.learning_rate)
    assert record.metrics(stage)[0]["learning_rate"] == pytest.approx(group.learning_rate)
  epochs = {stage: set(learnt_from(record, stage).values()) for stage in ("sft", "sft_redraw", "warm_start")}
  assert epochs == {"sft": {c.sft.epochs}, "sft_redraw": {c.sft.epochs}, "warm_start": {c.warm_start.epochs}}


@pytest.mark.parametrize("stage", BY_STEPS)
def test_rl_takes_each_start_once_a_pass_in_as_many_steps_as_are_asked(record: Record, stage: str) -> None:
  c = record.config.rl
  found = asked(record, stage)
  assert [len(rolled.requests) for rolled in record.named(stage)] == [c.prompts] * c.steps
  starts = record.read(f"stages/{stage}.json")["starts"]
  assert starts == len(set(found[:starts])) == len(set(found))
  assert len(record.of(stage)) == c.steps * math.ceil(c.prompts / c.minibatch)
  assert record.read(f"stages/{stage}.json")["updates"] == len(record.of(stage))


def test_every_step_stands_once_in_the_metrics_and_is_validated_as_often_as_is_kept(record: Record) -> None:
  lines = record.metrics("rl")
  assert [line["step"] for line in lines] == list(range(record.config.rl.steps))
  assert [i for i, line in enumerate(lines) if "val_accuracy" in line] == [1, 3]
  for line, rolled in zip(lines, record.named("rl"), strict=True):
    sound = [t for group in rolled.groups for t in group if t.grade is not None]
    assert line["accuracy"] == pytest.approx(sum(t.right for t in sound) / len(sound))
    assert line["generated_tokens"] == sum(map(drawn, sound))


def test_mentoring_makes_of_each_question_what_its_kind_says(record: Record) -> None:
  """So that the tests above have something of every kind before them."""
  cases = {case["question"]: case["outcome"] for case in record.read("trajectories/mps/cases.json")}
  assert cases == {q: OUTCOMES[q[0]] for q in record.read("split.json")["mps"]}
