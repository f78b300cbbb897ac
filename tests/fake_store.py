"""A store of objects in memory under gs://, reached by the paths of etils like the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Store(MemoryFileSystem):
  """Folders are there once something is in them; nothing can be appended."""

  protocol = ("gcs", "gs")
  store: ClassVar[dict[str, Any]] = {}
  pseudo_dirs: ClassVar[list[str]] = [""]

  @classmethod
  def _strip_protocol(cls, path: str) -> str:
    return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))

  def unstrip_protocol(self, name: str) -> str:
    return f"gs:/{self._strip_protocol(name)}"

  def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
    assert "a" not in mode, "gs:// cannot append"
    return super()._open(path, mode, **options)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
  """gs:// is this store as long as the test runs."""
  make = fsspec.filesystem
  monkeypatch.setattr(
    fsspec, "filesystem", lambda name, **_: Store(skip_instance_cache=True) if name == "gcs" else make(name)
  )
  backend.fsspec_backend._get_filesystem.cache_clear()
  Store.store.clear()
  Store.pseudo_dirs[:] = [""]
  yield Store
  backend.fsspec_backend._get_filesystem.cache_clear()
