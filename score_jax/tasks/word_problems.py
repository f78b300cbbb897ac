"""Generated word problems whose steps depend on what the tools answer; no network needed.

A world is a small corpus of made-up facts (how many plums are in a box, which
town a shop's boxes come from); a question asks for a running count:

    Tom has 14 plums. Tom finds 9 plums. Ana has 5 figs. Tom buys 3 boxes of
    plums. Tom doubles the plums. How many plums does Tom have?

Python computes, `web_search` looks facts up; boxes bought at a shop take two
searches, the second for what the first one found; "if the count is odd" hangs
on the number printed before. Facts differ from world to world, so they cannot
be learnt by heart. Every question comes with a worked solution, and its answer
is what that solution computes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
from collections.abc import Sequence

from score_jax.errors import UserError
from score_jax.search.passages import Document
from score_jax.tasks.splits import normalise_question
from score_jax.trajectory import Question

PEOPLE = "Tom Ana Rana Mira Ben Lea Omar Ines Paul Yuki Nora Hugo Sara Ivan Kofi Vera".split()
ITEMS = "plums figs pears dates limes nuts eggs rolls buns cards pens coins".split()
TOWNS = "Oslo Bern Lima Riga Kyiv Cairo Turin Delhi Porto Quito Accra Perth".split()
CONTAINERS = {"boxes": "box", "bags": "bag", "crates": "crate"}
VERBS = {"add": ("finds", "picks", "gets"), "sub": ("eats", "loses", "sells")}
FACTORS = {"doubles": 2, "triples": 3}

#: draws after which a question, or a new one, is given up
MAX_ATTEMPTS = 1000

#: how often an operation comes without saying the same again (there are three verbs, two factors, …)
MAX_REPEATS = {"add": 3, "sub": 3, "mul": 2, "odd": 1, "box": 3, "shop": 15}

#: acts that each operation takes
ACTS_PER_OPERATION = {"add": 1, "sub": 1, "mul": 1, "odd": 1, "box": 2, "shop": 3}


@dataclasses.dataclass(frozen=True)
class Difficulty:
  """What questions are made of.

  Attributes:
    acts: least and greatest number of acts of the worked solution, the final answer included.
    operations: names out of ACTS_PER_OPERATION, drawn evenly.
    distractors: greatest number of sentences about somebody else.

  Raises:
    UserError: an operation is unknown, or no sequence of them has that many acts.
  """

  acts: tuple[int, int] = (3, 8)
  operations: tuple[str, ...] = tuple(ACTS_PER_OPERATION)
  distractors: int = 1

  def __post_init__(self) -> None:
    unknown = [k for k in self.operations if k not in ACTS_PER_OPERATION]
    if unknown:
      raise UserError(f"tasks.operations has {unknown}; choose from {', '.join(ACTS_PER_OPERATION)}")
    least, most = self.acts
    if least < 2 or not any(_adds_up(self.operations, acts - 1) for acts in range(least, most + 1)):
      raise UserError(
        f"tasks.acts = {self.acts} cannot be had with tasks.operations = {self.operations}: an answer takes one act, "
        f"operations take {', '.join(f'{k} {ACTS_PER_OPERATION[k]}' for k in self.operations)}; "
        "give other bounds, 2 or more"
      )


@dataclasses.dataclass(frozen=True)
class World:
  """The facts behind one set of questions."""

  container_sizes: dict[tuple[str, str], int]  # (container, item) -> how many are in one
  town_of_shop: dict[str, str]  # person -> town that their shop's boxes come from
  box_size_of_town: dict[str, int]  # town -> how many are in a box from there

  @classmethod
  def generate(cls, seed: int) -> World:
    draw = random.Random(f"world/{seed}")
    return cls(
      container_sizes={(c, i): draw.randint(2, 9) for c in CONTAINERS.values() for i in ITEMS},
      town_of_shop={p: draw.choice(TOWNS) for p in PEOPLE},
      box_size_of_town={t: draw.randint(2, 9) for t in TOWNS},
    )

  def documents(self) -> list[Document]:
    """The corpus that `web_search` answers from."""
    boxes = [Document(f"{c} of {i}", f"{n} in each") for (c, i), n in self.container_sizes.items()]
    shops = [Document(f"{p}'s shop", f"boxes from {t}") for p, t in self.town_of_shop.items()]
    towns = [Document(t, f"{n} in a box") for t, n in self.box_size_of_town.items()]
    return boxes + shops + towns


@dataclasses.dataclass(frozen=True)
class Operation:
  """One sentence of a question: its part of the plan, its acts (thought, what is added or done) and its effect."""

  plan: str
  sentence: str
  acts: tuple[tuple[str, str], ...]
  result: int


def _compute(first: bool, start: int, expression: str) -> str:
  """Code of a computing step; the first one starts from the number in the question."""
  return f"x = {start if first else 'x'} {expression}\nprint(x)"


def _search(query: str) -> tuple[str, str]:
  return (f"look up {query}", f'print(web_search("{query}"))')


def _fresh(draw: random.Random, options: Sequence[str], used: set[str]) -> str:
  """One of the options that the question has not used yet, while there is one: a word then points at one sentence."""
  chosen = draw.choice([o for o in options if o not in used] or list(options))
  used.add(chosen)
  return chosen


def _operation(
  kind: str, world: World, draw: random.Random, who: str, item: str, x: int, used: set[str], first: bool
) -> Operation:
  """Draws one operation of `kind` on the count `x`."""
  n, m = draw.randint(2, 9), draw.randint(2, 9)
  if kind in VERBS:
    verb, sign = _fresh(draw, VERBS[kind], used), "+" if kind == "add" else "-"
    act = (f"{verb} {n}", _compute(first, x, f"{sign} {n}"))
    return Operation(f"{verb} {n}", f"{who} {verb} {n} {item}.", (act,), x + n if kind == "add" else x - n)
  if kind == "mul":
    verb = _fresh(draw, sorted(FACTORS), used)
    act = (verb, _compute(first, x, f"* {FACTORS[verb]}"))
    return Operation(verb, f"{who} {verb} the {item}.", (act,), x * FACTORS[verb])
  if kind == "odd":
    thought, change = (f"odd, {n}", f"+ {n}") if x % 2 else (f"even, {m}", f"- {m}")
    return Operation(
      f"odd {n} even {m}",
      f"If the count is odd {who} wins {n}, if even {who} drops {m}.",
      ((thought, _compute(first, x, change)),),
      x + n if x % 2 else x - m,
    )
  if kind == "box":
    many = _fresh(draw, sorted(CONTAINERS), used)
    size = world.container_sizes[CONTAINERS[many], item]
    acts = (_search(f"{CONTAINERS[many]} of {item}"), (f"{n} of {size}", _compute(first, x, f"+ {n} * {size}")))
    return Operation(f"buys {n} {many}", f"{who} buys {n} {many} of {item}.", acts, x + n * size)
  shop = _fresh(draw, [p for p in PEOPLE if p != who], used)
  town = world.town_of_shop[shop]
  size = world.box_size_of_town[town]
  acts = (
    _search(f"{shop}'s shop"),
    _search(town),
    (f"{n} of {size}", _compute(first, x, f"+ {n} * {size}")),
  )
  return Operation(f"buys {n} at {shop}'s", f"{who} buys {n} boxes at {shop}'s shop.", acts, x + n * size)


@functools.cache
def _adds_up(operations: tuple[str, ...], acts: int) -> bool:
  """Whether some of the operations, each as often as one likes, take exactly so many acts."""
  return acts == 0 or (acts > 0 and any(_adds_up(operations, acts - ACTS_PER_OPERATION[k]) for k in operations))


def _draw_kinds(draw: random.Random, difficulty: Difficulty) -> list[str]:
  """Operations whose acts, with the final answer, lie within the difficulty's bounds."""
  left = draw.randint(*difficulty.acts) - 1
  while not _adds_up(difficulty.operations, left):
    left = draw.randint(*difficulty.acts) - 1
  kinds: list[str] = []
  while left:
    fitting = [k for k in difficulty.operations if _adds_up(difficulty.operations, left - ACTS_PER_OPERATION[k])]
    kinds.append(draw.choice([k for k in fitting if kinds.count(k) < MAX_REPEATS[k]] or fitting))
    left -= ACTS_PER_OPERATION[kinds[-1]]
  return kinds


def generate_question(world: World, difficulty: Difficulty, seed: int, index: int) -> Question:
  """The question number `index` of this seed; the same arguments give the same question.

  Raises:
    UserError: at this difficulty counts hardly ever stay within [1, 999].
  """
  draw = random.Random(f"question/{seed}/{index}")
  for _ in range(MAX_ATTEMPTS):
    question = _attempt(world, difficulty, draw)
    if question is not None:
      return question
  raise UserError(f"{difficulty}: counts do not stay within 1 to 999; ask for fewer acts or other operations")


def _attempt(world: World, difficulty: Difficulty, draw: random.Random) -> Question | None:
  """One draw; None when the count leaves [1, 999] on the way."""
  who, item = draw.choice(PEOPLE), draw.choice(ITEMS)
  start = x = draw.randint(5, 40)
  operations: list[Operation] = []
  used: set[str] = set()
  for kind in _draw_kinds(draw, difficulty):
    operations.append(_operation(kind, world, draw, who, item, x, used, first=not operations))
    x = operations[-1].result
    if not 1 <= x <= 999:
      return None
  sentences = [o.sentence for o in operations]
  for _ in range(draw.randint(0, difficulty.distractors)):
    other = draw.choice([p for p in PEOPLE if p != who])
    noise = f"{other} has {draw.randint(2, 40)} {draw.choice([i for i in ITEMS if i != item])}."
    sentences.insert(draw.randint(0, len(sentences)), noise)
  text = f"{who} has {start} {item}. {' '.join(sentences)} How many {item} does {who} have?"
  acts = [act for o in operations for act in o.acts]
  plan = ", ".join(o.plan for o in operations)
  return Question(
    id=hashlib.sha256(normalise_question(text).encode()).hexdigest()[:12],
    text=text,
    answer=str(x),
    steps=len(acts) + 1,
    solution=((f"plan: {plan}", ""), *acts, ("answer", "final_answer_print(x)")),
  )


def generate_questions(
  world: World, difficulty: Difficulty, *, seed: int, count: int, exclude: Sequence[Question] = ()
) -> list[Question]:
  """`count` different questions of a seed, none of which stands in `exclude`.

  Raises:
    UserError: there are not so many of this difficulty.
  """
  seen = {q.id for q in exclude}
  result: list[Question] = []
  for index in range(MAX_ATTEMPTS * count):
    if len(result) == count:
      break
    question = generate_question(world, difficulty, seed, index)
    if question.id not in seen:
      seen.add(question.id)
      result.append(question)
  if len(result) < count:
    raise UserError(f"{difficulty}: only {len(result)} different questions of {count}; ask for more tasks.acts")
  return result
