"""One of several processes that talk to each other, for tests: runs Python code with `peers` and `hosts`, no JAX.

    python -m tests.mesh.peer PORT COUNT INDEX LIMITS CODE

LIMITS is a JSON object of `timeout_s`, `silence_s` and `start_s`.
"""

from __future__ import annotations

import json
import sys

from score_jax.errors import UserError
from score_jax.mesh import hosts
from score_jax.mesh.cluster import Place
from score_jax.mesh.peers import Peers

port, count, index = map(int, sys.argv[1:4])
try:
  peers = Peers(Place(f"127.0.0.1:{port}", count, index), **json.loads(sys.argv[4]))
except UserError as error:
  print(f"error: {error}", file=sys.stderr)
  sys.exit(1)
hosts._peers = peers
try:
  exec(sys.argv[5])
except UserError as error:
  peers.fail(str(error), patience_s=0.0)
peers.close()
assert "jax" not in sys.modules
