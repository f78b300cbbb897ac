"""Trajectories as data sets that TRL reads: a JSON object a line, conversations as lists of {"role", "content"}.

    messages           a whole trajectory that ended right. With `assistant_only_loss` TRL's SFTTrainer learns what our
                       SFT learns: every turn of the assistant with its end, no question and no observation
    prompt_completion  the same, cut before the last correction: the prompt is the question and the verified prefix, the
                       completion the teacher's step and all that followed. Of an unaided trajectory the prompt is the
                       question. SFTTrainer learns the completion, without its observations if `assistant_only_loss` is
                       set too
    preference         a pair for each recorded mistake of a verified correction: after the question and the prefix the
                       teacher's step is chosen and the student's rejected (the DPO variant of the paper's appendix)

Roles are user (the question, observations) and assistant. An exported model's chat template (agent/protocol.py) renders
a conversation to exactly the text that the agent saw; its tokens are the trajectory's where the student drew them as
the tokenizer would have cut them. What text cannot tell is left out and counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from etils import epath
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import AgentProtocol, add_tags
from score_jax.agent.scripted import tokenize_step, tokenize_trajectory
from score_jax.errors import UserError
from score_jax.model import pretrained
from score_jax.runtime.workdir import Workdir, read_run_config
from score_jax.teaching import release
from score_jax.trajectory import Correction, Step, Trajectory, parse_trajectories

Message = dict[str, str]
TrlRecord = dict[str, list[Message]]


class NotExpressible(Exception):
  """What is not written down; the message says why."""


class TrlFormatter:
  """Writes trajectories down as conversations, for the tokenizer of a student (with the tags)."""

  def __init__(self, tokenizer: PreTrainedTokenizerFast):
    self.protocol, self._tokenizer = AgentProtocol(tokenizer), tokenizer
    self._template = self.protocol.chat_template()

  def messages(self, trajectory: Trajectory) -> TrlRecord:
    return {"messages": self._right(trajectory)}

  def prompt_completion(self, trajectory: Trajectory) -> TrlRecord:
    cut = _turns_before(trajectory.corrections[-1].step) if trajectory.corrections else 1
    said = self._right(trajectory)
    return {"prompt": said[:cut], "completion": said[cut:]}

  def preference(self, trajectory: Trajectory, correction: Correction, mistake: Step) -> TrlRecord:
    if not correction.verified:
      raise NotExpressible("corrections that nothing verified")
    prefix = trajectory.steps[: correction.step]
    chosen, rejected = (self.conversation(trajectory, (*prefix, step)) for step in (correction.replacement, mistake))
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}

  def _right(self, trajectory: Trajectory) -> list[Message]:
    if not trajectory.right:
      raise NotExpressible("trajectories that did not end right")
    return self.conversation(trajectory, trajectory.steps)

  def conversation(self, trajectory: Trajectory, steps: Sequence[Step]) -> list[Message]:
    """The question of a trajectory and some steps at it, up to the last turn of the assistant.

    Raises:
      Untold: a turn was cut off, or a text would be read as a special token.
    """
    messages = [{"role": "user", "content": trajectory.question}]
    tokens = written = trajectory.prompt_tokens
    for step in steps:
      if step.tokens[-1:] != (self.protocol.stop_token,):
        raise NotExpressible("turns that were cut off")
      observed = None if step.kind == "first_thought" else step.observation
      messages.append({"role": "assistant", "content": self.protocol.decode(step.tokens[:-1])})
      messages.append({"role": "user", "content": f"Observation: {observed}"})
      written = tokens + step.tokens
      tokens = written + step.observation_tokens
    said = messages[:-1]
    read = self.protocol.encode_with_special(self.rendered(said))
    if self.protocol.special_tokens_in(read) != self.protocol.special_tokens_in(written):
      raise NotExpressible("texts that would be read as special tokens")
    return said

  def rendered(self, messages: Sequence[Message]) -> str:
    """The text of a conversation, as the chat template of an exported model renders it."""
    return str(self._tokenizer.apply_chat_template(list(messages), chat_template=self._template, tokenize=False))


def _turns_before(step: int) -> int:
  """How many messages stand before a step's: the question, and turn and observation of each step before it."""
  return 1 + 2 * step


#: form -> what makes its records of a trajectory
RECORD_MAKERS: dict[str, Callable[[TrlFormatter, Trajectory], list[Callable[[], TrlRecord]]]] = {
  "messages": lambda scribe, t: [partial(scribe.messages, t)],
  "prompt_completion": lambda scribe, t: [partial(scribe.prompt_completion, t)],
  "preference": lambda scribe, t: [partial(scribe.preference, t, c, m) for c in t.corrections for m in c.mistakes],
}


def make_records(
  form: str, trajectories: Iterable[Trajectory], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[TrlRecord], Counter[str]]:
  """The records of a form, a key of FORMS, that trajectories yield; and how much was left out, by reason."""
  scribe, left_out = TrlFormatter(tokenizer), Counter[str]()
  made: list[TrlRecord] = []
  for trajectory in trajectories:
    for make in RECORD_MAKERS[form](scribe, trajectory):
      try:
        made.append(make())
      except NotExpressible as reason:
        left_out[str(reason)] += 1
  return made, left_out


def write_records(path: str, made: Sequence[TrlRecord]) -> None:
  """Writes a new file, whole or not at all.

  Raises:
    UserError: it is there already, or cannot be written.
  """
  file = epath.Path(path)
  if file.exists():
    raise UserError(f"--out={path} is there already; give a new file")
  draft = file.parent / f".{file.name}.draft"
  try:
    draft.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in made), encoding="utf-8")
    draft.replace(file)
  except OSError as error:
    raise UserError(f"--out={path} cannot be written ({error.strerror or error}); give another file") from error


# Where trajectories come from


def read_run_trajectories(root: str, stage: str) -> tuple[Iterator[Trajectory], PreTrainedTokenizerFast]:
  """The trajectories that a stage of a run left, and its student's tokenizer.

  Raises:
    UserError: there is no such run, or the stage left none.
  """
  tokenizer = load_tagged_tokenizer(read_run_config(root).student.path)
  if not any((epath.Path(root) / "trajectories" / stage).glob("part-*.jsonl")):
    raise UserError(f"{root}: stage {stage!r} has left no trajectories; name one that has, such as mps")
  return Workdir(root).read_parts(stage), tokenizer


def read_trajectory_file(path: str, tokenizer: PreTrainedTokenizerFast) -> Iterator[Trajectory]:
  """The trajectories of a part file, or of one of the reference release, whose text is tokenised here.

  Raises:
    UserError: it cannot be read, or a line is none.
  """
  file = epath.Path(path)
  if not file.is_file():
    raise UserError(f"--file={path} does not exist; give a part file or a *_mps_trajectories.jsonl of the release")
  with file.open(encoding="utf-8") as lines:
    if '"original_task_info"' in next(lines, ""):
      protocol = AgentProtocol(tokenizer)
      yield from (_with_tokens(protocol, trajectory) for _, trajectory in release.read_release(path))
      return
  try:
    with file.open(encoding="utf-8") as lines:
      yield from parse_trajectories(lines)
  except ValueError as error:
    raise UserError(f"--file={path} is no part file ({error}); give one that a run wrote") from error


def _with_tokens(protocol: AgentProtocol, trajectory: Trajectory) -> Trajectory:
  """The trajectory and its corrections with the tokens of their text."""
  corrections = tuple(
    dataclasses.replace(
      c,
      replacement=tokenize_step(protocol, c.replacement),
      mistakes=tuple(tokenize_step(protocol, m) for m in c.mistakes),
    )
    for c in trajectory.corrections
  )
  return dataclasses.replace(tokenize_trajectory(protocol, trajectory), corrections=corrections)


def load_tagged_tokenizer(name: str) -> PreTrainedTokenizerFast:
  """The tokenizer of a model by name, with the tags.

  Raises:
    UserError: there is none.
  """
  tokenizer = pretrained.open_pretrained(name).tokenizer
  add_tags(tokenizer)
  return tokenizer
