"""The stages of the method and the arms that it is compared with, as data; recipe.py is what they do.

An arm is a stage like the method's own: it starts from the weights of another
one, learns from something, and goes by the settings of a group of the config,
some of them changed. Two arms differ in what their entries say, and share every
stage that both build on.

    --config.arms="('grpo','sft_redraw')"     after the stages of the config, with all that these need
    --config.arms="('all',)"                  every one

Arms can be asked for in a workdir that is finished: what is there stays, and the
table grows by their rows.

What the literature calls them: bc is behaviour cloning with as many teacher
tokens as the whole of SCoRe's teaching cost (docs/method.md). bc_first_thought
is the teacher's side of agent distillation (Kang et al. 2025, arXiv 2505.17612):
a trajectory goes on from a first thought that was there before it. As every
trajectory here begins with one, and a prompted teacher is asked for it apart
(paper, warm start), what differs from bc is which: the first round is bc's own,
and from then on the teacher goes on from the first thought of its first right
trajectory of the question. The thought carries loss, since the student has to
write its own when it is evaluated. grpo and bc_grpo are GRPO (Shao et al. 2024)
with the outcome as reward; sft_rejection is rejection-sampling fine-tuning (Yuan
et al. 2023), STaR without hints (Zelikman et al. 2022). distill is on-policy
distillation (Agarwal et al. 2024; Lu 2025); its teacher has to lie on the mesh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from score_jax.errors import UserError

SftDataName = Literal[
  "few_demonstrations",  # the teacher's, of the warm start's questions
  "bought_demonstrations",  # the teacher's of all training questions, for a budget of its tokens
  "planned_demonstrations",  # the same, going on from first thoughts that led to the answer before
  "all_demonstrations",  # the teacher's, one of each training question
  "corrected",  # what mentoring yielded
  "own_successes",  # the student's own, where it failed at first: other tries from the question
  "redrawn",  # other tries of the student's from before the error that the teacher located
  "random_corrections",  # mentoring once more, with a step named by lot
  "teacher_endings",  # the teacher goes on to the end from before the error that it located
]
RlStartsName = Literal[
  "prefixes",  # before the last surviving correction (paper, RL)
  "questions_of_prefixes",  # the questions of those prefixes, each as often as it has one
  "questions_for_rl",  # all questions of the same half of the mentored ones
  "mentored_questions",  # all of them
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One stage or arm. It is fine-tuned on `lessons`, or goes by policy gradient from `starts`, or trains nothing."""

  label: str  # in tables
  purpose: str  # what its row of the table is for
  group: str  # of the config: its settings
  overrides: Mapping[str, bool | float | str] = dataclasses.field(default_factory=dict)  # of those settings
  config_groups: tuple[str, ...] = ()  # the other groups that it reads
  init_from: str = ""  # whose weights it starts from: a stage's, or "untrained"; "": it trains nothing
  sft_data: SftDataName | None = None
  rl_starts: RlStartsName | None = None
  inputs: tuple[str, ...] = ()  # stages that made what it learns from, whose costs are its own too
  revision: int = 0  # raised when the entry comes to mean something else: results of the old meaning are refused
  budget_from: tuple[str, ...] = ()  # stages that set its budget or number, or whose first rollouts it books itself

  @property
  def dependencies(self) -> tuple[str, ...]:
    """The stages that have to be done before it."""
    inputs = (self.init_from, *self.inputs, *self.budget_from)
    return tuple(name for name in dict.fromkeys(inputs) if name in STAGES)


#: groups of the config that say who teaches
TEACHER_CONFIG_GROUPS = ("teacher", "chat")
#: in the order of the table
STAGES: Mapping[str, Stage] = {
  "warm_start": Stage(
    label="warm start",
    purpose="cloning on a fifth of the questions: able to run the loop, no more",
    group="warm_start",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train"),
    init_from="untrained",
    sft_data="few_demonstrations",
  ),
  "mps": Stage(
    label="mentored problem solving",
    purpose="the student acts, the teacher corrects its earliest error, the student goes on",
    group="mps",
    config_groups=TEACHER_CONFIG_GROUPS,
    inputs=("warm_start",),
  ),
  # Baselines by cloning and by policy gradient without mentoring
  "bc": Stage(
    label="BC",
    purpose="what the whole of SCoRe's teacher tokens buy as demonstrations",
    group="bc",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train"),
    init_from="untrained",
    sft_data="bought_demonstrations",
    budget_from=("warm_start", "mps"),
  ),
  "bc_first_thought": Stage(
    label="BC, first thought",
    purpose="the same tokens, spent on going on from first thoughts that led to the answer",
    group="bc",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train"),
    init_from="untrained",
    sft_data="planned_demonstrations",
    budget_from=("warm_start", "mps"),
  ),
  "bc_all": Stage(
    label="BC on all",
    purpose="every training question demonstrated once, whatever it costs",
    group="bc",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train"),
    init_from="untrained",
    sft_data="all_demonstrations",
  ),
  "bc_grpo": Stage(
    label="BC on all, GRPO",
    purpose="the usual pipeline: clone everything, then policy gradient from the question",
    group="rl",
    config_groups=("train",),
    init_from="bc_all",
    rl_starts="mentored_questions",
    budget_from=("mps", "rl"),
  ),
  "grpo": Stage(
    label="GRPO",
    purpose="policy gradient without mentoring, for the student tokens of mentoring and RL",
    group="rl",
    config_groups=("train",),
    init_from="warm_start",
    rl_starts="mentored_questions",
    budget_from=("mps", "rl"),
  ),
  "distill": Stage(
    label="distillation",
    purpose="the teacher's probabilities of the student's own tokens in the place of any reward, for as many of them",
    group="rl",
    overrides={"final": 0.0, "key": 0.0, "avoid": 0.0, "distill": 1.0, "dual_clip": 0.0},
    config_groups=(*TEACHER_CONFIG_GROUPS, "train"),
    init_from="warm_start",
    rl_starts="mentored_questions",
    budget_from=("mps", "rl"),
  ),
  # SFT, and what of mentoring it owes to whom
  "sft": Stage(
    label="SFT on corrections",
    purpose="the method up to its fine-tuning",
    group="sft",
    config_groups=("train",),
    init_from="warm_start",
    sft_data="corrected",
    inputs=("mps",),
  ),
  "sft_corrected_only": Stage(
    label="SFT, teacher's steps",
    purpose="loss on the corrected steps alone: is the student's own text worth learning?",
    group="sft",
    overrides={"loss": "teacher_steps"},
    config_groups=("train",),
    init_from="warm_start",
    sft_data="corrected",
    inputs=("mps",),
  ),
  "sft_rejection": Stage(
    label="SFT, own successes",
    purpose="other tries from the question in the place of corrections: what is a teacher worth?",
    group="sft",
    config_groups=("train", "mps"),
    init_from="warm_start",
    sft_data="own_successes",
    budget_from=("mps",),
  ),
  "sft_redraw": Stage(
    label="SFT, step redrawn",
    purpose="the student draws the located step again: what is the teacher's step worth, beyond its place?",
    group="sft",
    config_groups=("train", "mps"),
    init_from="warm_start",
    sft_data="redrawn",
    inputs=("mps",),
  ),
  "sft_random_k": Stage(
    label="SFT, random step",
    purpose="corrections of steps named by lot: what is the earliest error worth?",
    group="sft",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train", "mps"),
    init_from="warm_start",
    sft_data="random_corrections",
    budget_from=("mps",),
  ),
  "sft_teacher_finishes": Stage(
    label="SFT, teacher ends it",
    purpose="the teacher goes on to the end: what is it worth that the student goes on?",
    group="sft",
    config_groups=(*TEACHER_CONFIG_GROUPS, "train", "mps"),
    init_from="warm_start",
    sft_data="teacher_endings",
    inputs=("mps",),
  ),
  # RL, and what it owes to its reward and to its short horizon
  "rl": Stage(
    label="SCoRe RL",
    purpose="the method",
    group="rl",
    config_groups=("train",),
    init_from="sft",
    rl_starts="prefixes",
    inputs=("mps",),
  ),
  "rl_no_key": Stage(
    label="RL, no key step",
    purpose="the outcome alone as reward: what is the reward of the first step worth?",
    group="rl",
    overrides={"key": 0.0, "avoid": 0.0},
    config_groups=("train",),
    init_from="sft",
    rl_starts="prefixes",
    inputs=("mps",),
  ),
  "rl_from_question": Stage(
    label="RL from the question",
    purpose="whole rollouts on RL's questions, outcome alone, for as many student tokens: is a short horizon better?",
    group="rl",
    config_groups=("train",),
    init_from="sft",
    rl_starts="questions_of_prefixes",
    revision=1,  # 0: from all questions of the half
    inputs=("mps",),
    budget_from=("rl",),
  ),
  "rl_from_all_questions": Stage(
    label="RL, all questions",
    purpose="the same on every question of RL's half: what is the choice of questions worth?",
    group="rl",
    config_groups=("train",),
    init_from="sft",
    rl_starts="questions_for_rl",
    inputs=("mps",),
    budget_from=("rl",),
  ),
}


def resolve_stages(stages: Iterable[str], arms: Sequence[str]) -> list[str]:
  """The stages to walk: `stages` as they are listed, then `arms`, each after what it needs that is not there yet.

  Raises:
    UserError: one does not exist.
  """
  order = list(stages)
  for where, names in (("stages", order), ("arms", [name for name in arms if name != "all"])):
    for name in names:
      if name not in STAGES:
        raise UserError(f"{where}: {name!r} is none; choose from {', '.join(STAGES)}")

  def add(name: str) -> None:
    for other in STAGES[name].dependencies:
      add(other)
    if name not in order:
      order.append(name)

  for name in STAGES if "all" in arms else arms:
    add(name)
  return order
