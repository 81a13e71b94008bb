import pytest
from whole_run import run


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """One work folder for all runs of `tiny`, so that they share finished artifacts."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def tiny_run(work):
    """The shipped `tiny` recipe, run whole."""
    return run(work, "tiny")
