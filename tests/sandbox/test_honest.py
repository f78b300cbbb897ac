"""Programs as an agent writes them to solve something give in the sandbox what they give anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from score_jax.sandbox.interface import ExecutedStep, Outcome
from score_jax.sandbox.sandbox import Sandbox

#: by name, steps of a session, each with what it prints
HONEST: dict[str, list[tuple[str, str]]] = {
  "arithmetic": [("print(6 * 7, 7 // 2, -7 // 2, 2 ** 100, 0.1 + 0.2)", f"42 3 -4 {2**100} 0.30000000000000004")],
  "classes": [
    (
      """
class Account:
  rate = 2
  def __init__(self, owner, balance=0):
    self.owner, self.balance = owner, balance
  def __repr__(self):
    return f"{type(self).__name__}({self.owner!r}, {self.balance})"
  @property
  def interest(self):
    return self.balance * self.rate // 100
class Savings(Account):
  rate = 5
  def __add__(self, other):
    return Savings(self.owner, self.balance + other.balance)
a = Savings("Ada", 300)
print(a, a.interest)
""",
      "Savings('Ada', 300) 15",
    ),
    (
      """
print(a + Account('Bo', 200), isinstance(a, Account), Savings.__mro__[1].__name__)
""",
      "Savings('Ada', 500) True Account",
    ),
  ],
  "dataclasses and enums": [
    (
      """
import dataclasses, enum
class Suit(enum.Enum):
  HEARTS = 1
  SPADES = 2
@dataclasses.dataclass(frozen=True, order=True)
class Card:
  rank: int
  suit: Suit = dataclasses.field(compare=False)
print(max(Card(3, Suit.SPADES), Card(11, Suit.HEARTS)), dataclasses.asdict(Card(2, Suit.SPADES)))
""",
      "Card(rank=11, suit=<Suit.HEARTS: 1>) {'rank': 2, 'suit': <Suit.SPADES: 2>}",
    )
  ],
  "generators": [
    (
      """
def primes():
  found, n = [], 2
  while True:
    if all(n % p for p in found):
      found.append(n)
      yield n
    n += 1
source = primes()
print([next(source) for _ in range(8)])
""",
      "[2, 3, 5, 7, 11, 13, 17, 19]",
    ),
    ("print(next(source), next(source))", "23 29"),
    ("import itertools\nprint(list(itertools.takewhile(lambda p: p < 50, source)))", "[31, 37, 41, 43, 47]"),
  ],
  "coroutines by send": [
    (
      """
def mean():
  total, n, m = 0, 0, None
  while True:
    total += yield m
    n += 1
    m = total / n
g = mean()
next(g)
print(g.send(10), g.send(20), g.send(60))
""",
      "10.0 15.0 30.0",
    ),
  ],
  "recursion": [
    (
      """
from functools import lru_cache
@lru_cache(maxsize=None)
def ways(amount, coins=(1, 2, 5, 10, 20, 50, 100, 200)):
  if not amount:
    return 1
  if amount < 0 or not coins:
    return 0
  return ways(amount - coins[-1], coins) + ways(amount, coins[:-1])
def hanoi(n, a, b, c):
  return hanoi(n - 1, a, c, b) + [(a, c)] + hanoi(n - 1, b, a, c) if n else []
def depth(n):
  return 1 + depth(n - 1) if n else 0
print(ways(200), len(hanoi(10, *"abc")), depth(900))
""",
      "73682 1023 900",
    ),
    ("import sys\nsys.setrecursionlimit(20_000)\nprint(depth(9_000))", "9000"),
    ("print(depth(15_000))", "15000"),
  ],
  "state over many steps": [
    ("x, log = 1, []", ""),
    *[(f"x = x * 3 + {i}\nlog.append(x)", "") for i in range(10)],
    ("print(x, log[-3:], len(log))", "73806 [8197, 24599, 73806] 10"),
  ],
  "what was printed before an exception stays, and so does the state": [
    (
      """
total = 5
print('before')
total += 'x'
""",
      "before\nTypeError: unsupported operand type(s) for +=: 'int' and 'str'",
    ),
    ("print(total)", "5"),
  ],
  "a megabyte": [
    ("data = 'abcdefghij' * 104_858\nprint(len(data))", "1048580"),
    (
      """
import hashlib
print(hashlib.sha256(data.encode()).hexdigest()[:16], data.count('j'))
""",
      "decd5783bba7d133 104858",
    ),
    ("words = data.replace('j', ' ').split()\nprint(len(words), sum(map(len, words)))", "104858 943722"),
  ],
  "a megabyte of a file": [
    ("with open('big.txt', 'w') as f:\n  for i in range(100_000): f.write(f'{i:010d}\\n')", ""),
    (
      """
import os
print(os.path.getsize('big.txt'), sum(int(line) for line in open('big.txt')))
""",
      "1100000 4999950000",
    ),
  ],
  "numpy": [
    (
      """
import numpy as np
a = np.arange(12).reshape(3, 4)
print(a.sum(axis=0), (a @ a.T).trace())
""",
      "[12 15 18 21] 506",
    ),
    (
      """
print(np.linalg.solve(np.array([[3.0, 1], [1, 2]]), [9, 8]), np.round(np.linalg.det(a[:, :3] + np.eye(3)), 6))
""",
      "[2. 3.] -8.0",
    ),
    (
      """
rng = np.random.default_rng(3)
print(rng.integers(0, 100, 5).tolist(), np.unique(a % 5).tolist())
""",
      "[81, 8, 17, 23, 18] [0, 1, 2, 3, 4]",
    ),
    (
      """
x = np.linspace(0, np.pi, 200_001)
print(round(float(np.trapz(np.sin(x), x) if hasattr(np, 'trapz') else np.trapezoid(np.sin(x), x)), 8))
""",
      "2.0",
    ),
  ],
  "a larger matrix": [
    (
      """
import numpy as np
m = np.random.rand(400, 400)
print(np.allclose(m @ np.linalg.inv(m), np.eye(400)), m.nbytes)
""",
      "True 1280000",
    ),
    (
      """
u, s, v = np.linalg.svd(m)
print(np.allclose(u * s @ v, m), np.abs(np.fft.ifft(np.fft.fft(m[0])) - m[0]).max() < 1e-12)
""",
      "True True",
    ),
  ],
  "sympy": [
    (
      """
import sympy as sp
x, y = sp.symbols('x y')
print(sp.solve([x + y - 7, x - y - 1], [x, y]), sp.factor(x ** 4 - 1))
""",
      "{x: 4, y: 3} (x - 1)*(x + 1)*(x**2 + 1)",
    ),
    (
      """
print(sp.integrate(sp.exp(-x ** 2), (x, -sp.oo, sp.oo)), sp.limit(sp.sin(x) / x, x, 0), sp.diff(x ** sp.sin(x), x))
""",
      "sqrt(pi) 1 x**sin(x)*(log(x)*cos(x) + sin(x)/x)",
    ),
    (
      """
print(sp.factorint(2 ** 64 + 1), sp.isprime(2 ** 61 - 1), sp.totient(360), sp.binomial(50, 25))
""",
      "{274177: 1, 67280421310721: 1} True 96 126410606437752",
    ),
    (
      """
print(sp.Matrix([[2, 1], [1, 2]]).eigenvals(), sp.series(sp.cos(x), x, 0, 6), sp.N(sp.pi, 30))
""",
      "{3: 1, 1: 1} 1 - x**2/2 + x**4/24 + O(x**6) 3.14159265358979323846264338328",
    ),
    (
      """
f = sp.lambdify(x, x ** 2 + 1, 'numpy')
import numpy as np
print(f(np.arange(4)), sp.sympify('2*x + 3*x'))
""",
      "[ 1  2  5 10] 5*x",
    ),
  ],
  "scipy": [("import scipy.special as s\nprint(s.comb(10, 3, exact=True), float(s.gamma(5)))", "120 24.0")],
  "search with a heap": [
    (
      """
import heapq
def shortest(size, walls):
  queue, seen = [(0, (0, 0))], set()
  while queue:
    far, at = heapq.heappop(queue)
    if at == (size - 1, size - 1):
      return far
    if at in seen:
      continue
    seen.add(at)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
      x, y = at[0] + dx, at[1] + dy
      if 0 <= x < size and 0 <= y < size and (x, y) not in walls:
        heapq.heappush(queue, (far + 1, (x, y)))
print(shortest(40, {(i, j) for i in range(1, 39, 2) for j in range(40) if j != (39 if i % 4 == 1 else 0)}))
""",
      "780",
    )
  ],
  "dynamic programming": [
    (
      """
def lcs(a, b):
  best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      best[i + 1][j + 1] = best[i][j] + 1 if x == y else max(best[i][j + 1], best[i + 1][j])
  return best[-1][-1]
print(lcs('AGGTABQWERTY' * 20, 'GXTXAYBQYTREW' * 20))
""",
      "120",
    ),
  ],
  "eight queens": [
    (
      """
def queens(n, rows=()):
  if len(rows) == n:
    return 1
  free = (r for r in range(n) if all(r != q and abs(r - q) != len(rows) - i for i, q in enumerate(rows)))
  return sum(queens(n, (*rows, r)) for r in free)
print([queens(n) for n in range(1, 9)])
""",
      "[1, 0, 0, 2, 10, 4, 40, 92]",
    ),
  ],
  "text": [
    (
      r"""
import re, collections, textwrap
t = 'the cat sat on the mat, the end'
print(collections.Counter(re.findall(r'\w+', t)).most_common(2), re.sub(r'(\w+) (\w+)', r'\2 \1', 'a b c d'))
""",
      "[('the', 3), ('cat', 1)] b a d c",
    ),
    (
      r"""
print(textwrap.fill(t, 12), t.title(), f'{3.14159:>10.2f}|{1_000_000:,}|{255:#x}', sep='\n')
""",
      "the cat sat\non the mat,\nthe end\nThe Cat Sat On The Mat, The End\n      3.14|1,000,000|0xff",
    ),
    (
      """
print('é😀'.encode(), 'straße'.upper(), 'ǆ'.title(), len('👩‍🚀'))
""",
      "b'\\xc3\\xa9\\xf0\\x9f\\x98\\x80' STRASSE ǅ 3",
    ),
  ],
  "exact numbers": [
    (
      """
from fractions import Fraction as F
from decimal import Decimal, getcontext
getcontext().prec = 30
print(sum(F(1, n) for n in range(1, 11)), Decimal(2).sqrt())
""",
      "7381/2520 1.41421356237309504880168872421",
    ),
    (
      """
import math, statistics
print(math.comb(40, 20), math.isqrt(10 ** 20), math.lcm(*range(1, 21)), statistics.median([3, 1, 2]))
""",
      "137846528820 10000000000 232792560 2",
    ),
    (
      """
print(pow(3, 10 ** 18, 10 ** 9 + 7), sum(map(int, str(2 ** 1000))), math.factorial(100) % 10 ** 30)
""",
      f"{pow(3, 10**18, 10**9 + 7)} 1366 916864000000000000000000000000",
    ),
  ],
  "files": [
    (
      """
import json, csv, pathlib, pickle
pathlib.Path('a/b').mkdir(parents=True)
json.dump({'x': [1, None]}, open('a/b/c.json', 'w'))
print(sorted(map(str, pathlib.Path('.').rglob('*'))))
""",
      "['a', 'a/b', 'a/b/c.json']",
    ),
    (
      """
rows = [{'n': i, 'sq': i * i} for i in range(3)]
with open('t.csv', 'w', newline='') as f:
  w = csv.DictWriter(f, ['n', 'sq'])
  w.writeheader()
  w.writerows(rows)
print(list(csv.DictReader(open('t.csv')))[2], json.load(open('a/b/c.json')), pickle.loads(pickle.dumps(rows)) == rows)
""",
      "{'n': '2', 'sq': '4'} {'x': [1, None]} True",
    ),
    (
      """
import os, shutil, tempfile
shutil.copytree('a', 'd')
with tempfile.TemporaryDirectory() as t: open(os.path.join(t, 'x'), 'w').close()
print(os.path.exists(t), sorted(os.listdir('.')))
""",
      "False ['a', 'd', 't.csv']",
    ),
  ],
  "a database": [
    (
      """
import sqlite3
db = sqlite3.connect('people.db')
db.execute('create table p (name text, age int)')
db.executemany('insert into p values (?, ?)', [('Ada', 36), ('Bo', 5)])
db.commit()
""",
      "",
    ),
    ("print(db.execute('select name, age from p order by age').fetchall())", "[('Bo', 5), ('Ada', 36)]"),
  ],
  "the clock": [
    (
      """
import time, datetime
t = time.time()
time.sleep(0.05)
print(0.05 <= time.time() - t < 0.06, datetime.date.today(), time.strftime('%H:%M'))
""",
      "True 2026-01-01 00:00",
    ),
    (
      """
print(datetime.datetime(2024, 2, 28) + datetime.timedelta(2), datetime.date(2000, 1, 1).strftime('%A'))
""",
      "2024-03-01 00:00:00 Saturday",
    ),
  ],
  "asyncio": [
    (
      """
import asyncio
async def late(n):
  await asyncio.sleep(n / 100)
  return n
async def main():
  found = await asyncio.gather(*(late(n) for n in (3, 1, 2)))
  try:
    await asyncio.wait_for(late(500), 0.05)
  except asyncio.TimeoutError:
    return found
print(asyncio.run(main()))
""",
      "[3, 1, 2]",
    ),
    ("import queue\ntry:\n  queue.Queue().get(timeout=0.05)\nexcept queue.Empty:\n  print('empty')", "empty"),
  ],
  "random numbers that can be had again": [
    (
      """
import random
random.seed(7)
print(random.sample(range(100), 5), random.choice('abc'))
""",
      "[41, 19, 50, 83, 6] a",
    ),
    (
      """
hits = sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(200_000))
print(abs(hits / 50_000 - 3.14159) < 0.02)
""",
      "True",
    ),
  ],
  "context managers and decorators": [
    (
      """
import contextlib, functools, io
@contextlib.contextmanager
def tagged(name):
  print(f'<{name}>')
  yield name.upper()
  print(f'</{name}>')
def twice(f):
  @functools.wraps(f)
  def g(*a): return f(f(*a))
  return g
@twice
def double(n): return n * 2
with tagged('b') as t: print(t, double(5), double.__name__)
""",
      "<b>\nB 20 double\n</b>",
    ),
    (
      """
out = io.StringIO()
with contextlib.redirect_stdout(out): print('hidden')
print(repr(out.getvalue()))
import os, sys
print('gone', file=sys.stderr)
print('gone', file=open(os.devnull, 'w'))
""",
      "'hidden\\n'",
    ),
  ],
  "matching": [
    (
      """
def what(v):
  match v:
    case [a, *rest]: return f'list {a} {rest}'
    case {'k': int(n)}: return f'dict {n}'
    case str() | None: return 'text'
    case _: return 'other'
print([what(v) for v in ([1, 2], {'k': 3}, 'x', None, 2.0)])
""",
      "['list 1 [2]', 'dict 3', 'text', 'text', 'other']",
    ),
    (
      """
odd = [(i, j) for i in range(4) for j in range(i) if (i + j) % 2]
print(odd, {v: k for k, v in enumerate('ab')}, (lambda *a, **k: (a, k))(1, b=2))
""",
      "[(1, 0), (2, 1), (3, 0), (3, 2)] {'a': 0, 'b': 1} ((1,), {'b': 2})",
    ),
  ],
  "exceptions of one's own": [
    (
      """
class Broken(ValueError): pass
def f():
  try:
    raise Broken('a')
  except Broken as e:
    raise RuntimeError('b') from e
  finally:
    print('finally')
f()
""",
      "finally\nRuntimeError: b",
    ),
    (
      """
try:
  f()
except RuntimeError as e:
  print(repr(e.__cause__))
raise Broken('at last')
""",
      "finally\nBroken('a')\nBroken: at last",
    ),
    ("assert 1 + 1 == 3, 'no'", "AssertionError: no"),
  ],
  "imports": [
    (
      """
import array, bisect, calendar, cmath, copy, difflib, graphlib, inspect
import operator, pprint, string, struct, typing, uuid, zlib
order = graphlib.TopologicalSorter({'b': ['a'], 'c': ['b']}).static_order()
print(list(order), calendar.isleap(2000), struct.pack('>H', 258))
""",
      "['a', 'b', 'c'] True b'\\x01\\x02'",
    ),
    (
      """
open('mine.py', 'w').write('def f(): return 5')
import sys
sys.path.insert(0, '.')
import mine
print(mine.f())
""",
      "5",
    ),
  ],
  "memory that is used and given back": [
    ("for _ in range(8): x = bytearray(60_000_000)\nprint(len(x))\ndel x", "60000000"),
    ("print(sum(len(bytearray(1_000_000)) for _ in range(500)))", "500000000"),
  ],
}


@pytest.fixture(scope="module")
def tool() -> Iterator[Sandbox]:
  limits = {"workers": 2, "sessions": 8, "timeout_s": 30.0, "memory_mb": 192, "files_mb": 16, "output_chars": 1000}
  with Sandbox(isolation="bubblewrap", search=None, **limits) as tool:
    yield tool


def test_there_are_enough() -> None:
  assert len(HONEST) >= 25


@pytest.mark.parametrize("name", HONEST)
def test_it_prints_what_it_should(tool: Sandbox, name: str) -> None:
  """Step by step, and once more where all steps before the last are run again."""
  state: tuple[ExecutedStep, ...] = ()
  for code, expected in HONEST[name]:
    tool.submit(name, code, state)
    [(session, outcome)] = tool.wait(60.0)
    failed = raised(expected)
    assert (session, outcome) == (name, Outcome("exception" if failed else "ok", expected))
    state += (ExecutedStep(code, outcome.observation, outcome.reason),)
  tool.close(name)
  again = tool.run(HONEST[name][-1][0], state[:-1])
  assert (again.reason, again.observation) == (state[-1].reason, state[-1].observation)


def raised(expected: str) -> bool:
  """Whether the last line is that of an exception."""
  return expected.rpartition("\n")[2].split(":")[0].endswith("Error") or expected.endswith("Broken: at last")
