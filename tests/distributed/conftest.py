import importlib.util
import shutil

import pytest
from training_artifacts import tiny_artifacts


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The artifacts that training starts from, by name."""
    return tiny_artifacts(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def deepspeed():
    """DeepSpeed is there, and what it builds its communication with."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: pip install --no-build-isolation med42-pipeline[distributed]")
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler, with which DeepSpeed builds its communication on CPUs")
