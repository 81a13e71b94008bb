import pytest
from training_artifacts import tiny_artifacts


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The artifacts that training starts from, by name."""
    return tiny_artifacts(tmp_path_factory.mktemp("tiny"))
