"""Compiling a recipe's pipeline."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from med42.cluster.fit import Placed, fit
from med42.cluster.image_lock import ImageLock
from med42.cluster.profile import Profile
from med42.errors import Med42Error
from med42.recipe import Recipe

# Kubernetes keeps an object of at most 1.5 MiB; the pipeline is most of one.
LARGEST = 1 << 20


class Format(enum.StrEnum):
    """What a pipeline is written as."""

    IR = "ir"
    MANIFEST = "manifest"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise Med42Error("--format", f"'{value}'", " or ".join(cls), "Choose one of the two.")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        pipeline: its name on a cluster.
        version: its name with the digest of the intermediate representation, which names the pipeline version.
        ir: Kubeflow's intermediate representation, YAML.
        manifest: the Kubernetes objects Pipeline and PipelineVersion, YAML.
        placed: where trainings and evaluations run.
    """

    pipeline: str
    version: str
    ir: bytes
    manifest: bytes
    placed: tuple[Placed, ...]


def compile_pipeline(recipe: Recipe, profile: Profile, images: ImageLock | None, namespace: str = "") -> Compiled:
    """Compile a recipe for a cluster: the same bytes for the same recipe, profile and code.

    Its images are those of the lock, by digest; without one, by tags that a registry may move.

    Args:
        recipe: the resolved recipe.
        profile: the cluster.
        images: pushed images.
        namespace: of the objects, instead of the profile's.

    Raises:
        Med42Error: kfp is not installed, the recipe does not fit the cluster, or the pipeline is too large for it.
    """
    placed = tuple(fit(recipe, profile))
    try:
        from kfp import compiler
        from kfp.compiler.compiler_utils import KubernetesManifestOptions
    except ModuleNotFoundError as error:
        raise Med42Error("kfp", "not installed", "kfp and kfp-kubernetes 2.17.0",
                         "Install this package with its extra 'pipeline'.") from error
    from pipelines.med42_v2 import med42_v2, pipeline_name

    name = pipeline_name(recipe)
    with _quietly(), tempfile.TemporaryDirectory() as scratch:
        pipeline, written = med42_v2(recipe, profile, images), Path(scratch) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(written))
        ir = written.read_bytes()
        version = f"{name}-{hashlib.sha256(ir).hexdigest()[:12]}"
        options = KubernetesManifestOptions(
            pipeline_name=name, pipeline_display_name=name, pipeline_version_name=version, pipeline_version_display_name=version,
            namespace=namespace or profile.namespace, include_pipeline_manifest=True)
        compiler.Compiler().compile(pipeline, str(written), kubernetes_manifest_format=True, kubernetes_manifest_options=options)
        manifest = written.read_bytes()
    if len(manifest) >= LARGEST:
        raise Med42Error(f"recipe {recipe.name}", f"a pipeline of {len(manifest):,} bytes", f"less than {LARGEST:,}",
                         "A cluster keeps no larger object: shorten the recipe's texts.")
    return Compiled(name, version, ir, manifest, placed)


def write_compiled(compiled: Compiled, form: Format, output: Path) -> int:
    """Write a compiled pipeline to a file; the bytes written.

    Raises:
        Med42Error: the file cannot be written.
    """
    content = compiled.ir if form is Format.IR else compiled.manifest
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        raise Med42Error(output, error.strerror or str(error), "a file that can be written", "Choose another place.") from error
    return len(content)


def compile_recipe(recipe: Recipe, profile: Profile, output: Path, images: ImageLock | None) -> int:
    """Compile a recipe and write its intermediate representation; the bytes written."""
    return write_compiled(compile_pipeline(recipe, profile, images), Format.IR, output)


def print_placed(compiled: Compiled, console: Console) -> None:
    """The table of what runs where."""
    if not compiled.placed:
        return
    table = Table("stage", "on", "pool", "how", "GB a GPU", "hours", box=None, header_style="dim")
    for place in compiled.placed:
        memory = "" if place.memory is None else f"{place.memory / 1e9:.1f}"
        table.add_row(place.stage, place.shape, place.pool, place.how, memory, "" if place.hours is None else f"{place.hours:.1f}")
    console.print(table)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep kfp from telling on standard error what nobody can act on; everything is as before afterwards."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
