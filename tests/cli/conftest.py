"""What the tests of the command share."""

from pathlib import Path

import pytest
from command import BLOCKER


@pytest.fixture
def blocked(tmp_path: Path):
    """Environment of a process that cannot import the named packages."""
    def blocking(*names: str) -> dict[str, str]:
        folder = tmp_path / "blocker"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BLOCKER.format(names=set(names)))
        return {"PYTHONPATH": str(folder)}

    return blocking
