"""What the whole suite shares: a quiet environment, a job, the real data where it lies near, tiny's data made once."""

import os

# Libraries read these once, when they are first imported. HF_HUB_OFFLINE is not among them: some tests ask a hub on loopback.
os.environ.update(HF_HUB_DISABLE_XET="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import whole_run

from components.images import DATA, EVALUATE, RELEASE, TRAIN
from med42.data.mix_data import mix_data
from med42.data.prepare_source import prepare_source
from med42.errors import Med42Error
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.recipe import load_recipe

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def job() -> Job:
    return Job("test", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def refusal() -> Callable[[Callable[[], object]], str]:
    """The words of the error that a call ends in."""
    def told_by(call: Callable[[], object]) -> str:
        with pytest.raises(Med42Error) as told:
            call()
        return str(told.value)

    return told_by


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all runs of `tiny` as subprocesses, so that they share finished artifacts."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def tiny_run(work: Path) -> whole_run.Run:
    """The shipped `tiny` recipe, run whole, as subprocesses."""
    return whole_run.run(work, "tiny")


@pytest.fixture(scope="session")
def engine():
    """A client of the Docker engine, where one runs and holds the images of this code."""
    import docker
    import docker.errors

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        pytest.skip("no Docker engine answers (DOCKER_HOST, or the default socket)")
    for image in (DATA, TRAIN, EVALUATE, RELEASE):
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            pytest.skip(f"the engine has no {image}: run `make images` or `make images-offline`")
    yield client
    client.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, job: Job) -> SimpleNamespace:
    """The recipe `tiny` with its prepared `sources` (by name), `benchmarks` and `mix`."""
    folder, recipe = tmp_path_factory.mktemp("tiny"), load_recipe("tiny")
    sources = {name: folder / "sources" / name for name in recipe.sources}
    for name, path in sources.items():
        prepare_source(recipe, name, path, job)
    prepare_benchmarks(recipe, folder / "benchmarks", job)
    mix_data(recipe, list(sources.values()), folder / "benchmarks", folder / "mix", job)
    return SimpleNamespace(recipe=recipe, sources=sources, benchmarks=folder / "benchmarks", mix=folder / "mix")


@pytest.fixture(scope="session")
def base(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, job: Job) -> Path:
    """A base model without weights: the tokenizer that `prepare_base` would train on tiny's mix."""
    from med42.training.prepare_base import texts_of, train_tokenizer

    def build(draft: Path) -> Outcome:
        train_tokenizer(tiny.recipe.base.vocabulary, texts_of(tiny.mix)).save(str(draft / "tokenizer.json"))
        return Outcome()

    out = tmp_path_factory.mktemp("base") / "base"
    produce(Plan("prepare_base", "model", {}, {"mix": tiny.mix}, "training", ("tokenizers",)), out, job, build)
    return out
