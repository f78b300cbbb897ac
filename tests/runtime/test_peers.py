"""What processes tell each other and decide together, and who ends whom: real processes, without JAX to start soon."""

from __future__ import annotations

import ast
import json
import pathlib
import signal
import time

from tests.runtime.processes import Process, by_hand, ended, start

LIMIT_S = 90
SOON = '{"timeout_s": 60.0, "start_s": 2.0}'


def started(count: int, code: str, **limits: float) -> list[Process]:
  """Processes that run the code; where a limit is not given it lets them be."""
  whole = {"timeout_s": 60.0, "silence_s": 60.0, "start_s": 60.0} | limits
  return start(["-m", "tests.runtime.peer", json.dumps(whole), code], by_hand(count))


def run(count: int, code: str, **limits: float) -> tuple[list[int], list[str], list[str]]:
  """Their statuses, and what they said to standard output and error."""
  return ended(started(count, code, **limits), timeout_s=LIMIT_S)


def test_all_have_the_value_of_the_first_and_each_has_those_of_all() -> None:
  code = (
    "print([peers.agree('a', {'x': index, 'y': (1, 'é\\ud800')}), peers.gather('b', [index] * index),"
    " peers.agree('c', None), len(peers.agree('d', 'z' * (5_000_000 if index == 0 else 0)))])"
  )
  statuses, outputs, errors = run(3, code)
  assert statuses == [0, 0, 0], errors
  wanted = [{"x": 0, "y": [1, "é\ud800"]}, [[], [1], [2, 2]], None, 5_000_000]
  assert [ast.literal_eval(text) for text in outputs] == [wanted] * 3


def test_a_thousand_exchanges_take_less_than_a_millisecond_or_so_each() -> None:
  """A rollout makes one a round. The bound is loose: they are 0.1 ms on a quiet machine."""
  code = "import time; t = time.time()\nfor i in range(1000): peers.gather('tool', [])\nprint(time.time() - t)"
  statuses, outputs, errors = run(2, code)
  assert statuses == [0, 0], errors
  assert all(float(text) < 20.0 for text in outputs)


def test_one_that_is_killed_ends_the_others_which_name_it() -> None:
  for victim in (0, 2):
    code = f"peers.mark('rl'); index == {victim} and (time.sleep(2.0), os.kill(os.getpid(), 9)); time.sleep(60)"
    begin = time.monotonic()
    processes = started(3, f"import os, time; {code}")
    statuses, _, errors = ended(processes, timeout_s=LIMIT_S)
    assert time.monotonic() - begin < 45.0
    for index in {0, 1, 2} - {victim}:
      assert statuses[index] == 1
      assert errors[index].startswith(f"error: process {victim} ("), errors
      assert f"pid {processes[victim].pid}) died in stage 'rl'" in errors[index]


def test_one_that_is_stopped_is_silent() -> None:
  processes = started(2, "import time; print('here', flush=True); time.sleep(60)", silence_s=5.0)
  for process in processes:
    process.until("here", timeout_s=LIMIT_S)
  processes[1].send(signal.SIGSTOP)
  status, _, error = processes[0].ended(timeout_s=LIMIT_S)
  processes[1].send(signal.SIGKILL)
  processes[1].ended(timeout_s=LIMIT_S)
  assert status == 1
  assert error.startswith("error: process 1 (") and "is silent: no sign of life for" in error


def test_one_that_does_nothing_new_is_stuck() -> None:
  """The others wait for it, and are not taken for the ones at fault."""
  code = "peers.mark('mps'); index == 1 and time.sleep(60); peers.gather('tool', index)"
  statuses, _, errors = run(3, f"import time; {code}", timeout_s=3.0)
  assert statuses == [1, 1, 1]
  for error in errors:
    assert error.startswith("error: stuck in stage 'mps': process 1 (") and "process 2" not in error
    assert error.endswith("s (hosts.timeout_s)")


def test_those_that_wait_for_each_other_are_stuck() -> None:
  """One gives and the other would be told: no answer ever comes."""
  code = "peers.gather('tool', index) if index == 0 else peers.agree('tool', index)"
  statuses, _, errors = run(2, code, timeout_s=3.0)
  assert statuses == [1, 1]
  assert all("stuck: process 0 (" in e and ") at 'tool', process 1 (" in e for e in errors), errors


def test_slow_and_steady_is_not_stuck() -> None:
  code = "[(time.sleep(0.5), peers.mark()) for _ in range(8 * (index == 1))]; peers.gather('tool', index)"
  statuses, _, errors = run(2, f"import time; {code}", timeout_s=3.0)
  assert statuses == [0, 0], errors


def test_one_that_idles_where_another_as_far_works_is_not_stuck() -> None:
  """It may wait for what the other computes, in a device program of both."""
  long = "[(time.sleep(0.5), index == 2 and peers.at_work()) for _ in range((0, 9, 16)[index])]"
  statuses, _, errors = run(3, f"import time; {long}; peers.gather('tool', index)", timeout_s=3.0)
  assert statuses == [0, 0, 0], errors


def test_the_first_may_be_long_at_what_it_does_for_all() -> None:
  """As when it asks an endpoint for thousands of replies."""
  code = (
    "processes.run_on_primary('chat', lambda: [(time.sleep(0.5), processes.report_local_progress()) for _ in range(8)])"
  )
  statuses, _, errors = run(2, f"import time; {code}", timeout_s=3.0)
  assert statuses == [0, 0], errors


def test_one_that_fails_tells_the_others_why() -> None:
  code = "index == 1 and peers.fail('the disk is full', patience_s=0.0); peers.gather('tool', index)"
  statuses, _, errors = run(3, code)
  assert statuses == [1, 1, 1]
  for error in errors:
    assert error.startswith("error: process 1 (") and error.endswith("failed: the disk is full")


def test_processes_that_part_ways_are_named() -> None:
  """Else each would take the other's answer for its own."""
  code = "peers.gather('grade' if index else 'tool', index)"
  statuses, _, errors = run(2, code)
  assert statuses == [1, 1]
  assert all("is at 'tool' while process 1 (" in e and "is at 'grade'" in e for e in errors), errors


def test_those_that_do_not_come_are_named() -> None:
  (first, *_) = by_hand(3)
  statuses, _, errors = ended(start(["-m", "tests.runtime.peer", SOON, ""], [first]), timeout_s=LIMIT_S)
  assert statuses == [1]
  assert "of 3 processes these did not come to " in errors[0] and "1, 2" in errors[0]


def test_where_nobody_is_the_address_is_named() -> None:
  _, second = by_hand(2)
  statuses, _, errors = ended(start(["-m", "tests.runtime.peer", SOON, ""], [second]), timeout_s=LIMIT_S)
  assert statuses == [1]
  assert "process 1 of 2 on " in errors[0] and "process 0 is not at 127.0.0.1:" in errors[0]


# What stands on the exchanges (runtime/processes.py, workdir.py)


def test_only_the_first_does_what_is_done_once() -> None:
  """What it does may ask the same again, when nobody else is there to answer."""
  inner = "processes.run_on_primary('inner', lambda: index), processes.all_gather('x', 5)"
  code = f"print(processes.run_on_primary('outer', lambda: [index, {inner}]))"
  statuses, outputs, errors = run(2, code)
  assert statuses == [0, 0], errors
  assert outputs == ["[0, 0, [5]]\n"] * 2


def test_what_has_to_be_the_same_is_compared() -> None:
  code = "processes.require_same_on_all('seed', 7); processes.require_same_on_all('config', {'a': index == 2})"
  statuses, _, errors = run(3, code)
  assert set(statuses) == {1}
  assert all("process 2 has other config than process 0; give all processes the same" in e for e in errors)


def test_the_first_writes_and_all_read(tmp_path: pathlib.Path) -> None:
  code = (
    "from score_jax.runtime.metrics import MetricsWriter; from score_jax.runtime.workdir import Workdir;"
    f"w = Workdir({str(tmp_path)!r}); w.require_shared();"
    "w.write_json('stages/x.json', {'by': index}); print(w.read_json('stages/x.json'), w.read_json('none.json'));"
    "m = MetricsWriter(w, 'x'); m.write(1, {'loss': 0.5}); m.close()"
  )
  statuses, outputs, errors = run(2, code)
  assert statuses == [0, 0], errors
  assert outputs == ["{'by': 0} None\n"] * 2
  (line,) = (tmp_path / "metrics/x.jsonl").read_text().splitlines()
  numbers = json.loads(line)
  assert numbers["loss"] == 0.5 and numbers["hosts/oldest_beat_process"] == 1 and numbers["hosts/oldest_beat_s"] < 30
  assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics", "stages"], "nothing else is left"


def test_a_workdir_that_is_not_shared_is_refused(tmp_path: pathlib.Path) -> None:
  code = (
    "import score_jax.runtime.workdir as at; at.APPEARS_S = 1.0;"
    f"at.Workdir({str(tmp_path)!r} + '/' + str(index)).require_shared()"
  )
  statuses, _, errors = run(2, code)
  assert set(statuses) == {1}
  assert all("is another folder for process 1 (" in error and "gs://" in error for error in errors)


def test_a_signal_to_any_process_counts_on_all() -> None:
  code = "print(processes.any_process(index == 1), processes.any_process(False), processes.broadcast(index))"
  statuses, outputs, errors = run(2, code)
  assert statuses == [0, 0], errors
  assert outputs == ["True False 0\n"] * 2
