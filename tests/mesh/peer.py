"""One of several processes that talk to each other, for tests: runs Python code with `peers` and `hosts`, no JAX.

    python -m tests.mesh.peer LIMITS CODE

LIMITS is a JSON object of `timeout_s`, `silence_s` and `start_s`. The environment says which of how many it is.
"""

from __future__ import annotations

import json
import os
import sys

from score_jax.errors import UserError
from score_jax.mesh import hosts
from score_jax.mesh.cluster import find
from score_jax.mesh.peers import Peers

place = find(os.environ, None)
assert place is not None
index = place.index
try:
  peers = Peers(place, **json.loads(sys.argv[1]))
except UserError as error:
  print(f"error: {error}", file=sys.stderr)
  sys.exit(1)
hosts._peers = peers
try:
  exec(sys.argv[2])
except UserError as error:
  peers.fail(str(error), patience_s=0.0)
peers.close()
assert "jax" not in sys.modules
