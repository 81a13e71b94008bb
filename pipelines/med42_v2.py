"""Med42-v2 as one pipeline: data mixing -> SFT -> rounds of DPO -> evaluation -> release gate -> push -> audit bundle.

A pipeline is built from a recipe: its sources become the iterations of a loop, its DPO rounds are unrolled, and the
resolved recipe is the pipeline's one large parameter. Everything else about a run is where things lie.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from kfp import dsl

from components.build_preferences.component import build_preferences
from components.decide_release.component import decide_release
from components.evaluate_model.component import evaluate_model
from components.mix_data.component import mix_data
from components.pack_data.component import pack_data
from components.pair_answers.component import pair_answers
from components.preflight.component import preflight
from components.prepare_base.component import prepare_base
from components.prepare_benchmarks.component import prepare_benchmarks
from components.prepare_source.component import prepare_source
from components.push_model.component import push_model
from components.sample_answers.component import sample_answers
from components.score_answers.component import score_answers
from components.seal_audit.component import seal_audit
from components.summarise_run.component import summarise_run
from components.train_dpo.component import train_dpo
from components.train_sft.component import train_sft
from med42.cluster.image_lock import ImageLock
from med42.cluster.profile import Profile
from med42.recipe import Recipe, dump_recipe
from med42.recipe.derived import shape_of
from med42.recipe.parts import source_parts
from med42.recipe.schema import RandomBase
from pipelines.placement import place


class _Reached(Exception):  # noqa: N818, for it is none
    """The last stage that was asked for is in the pipeline."""


@contextlib.contextmanager
def _as_far_as_asked() -> Iterator[None]:
    with contextlib.suppress(_Reached):
        yield


def med42_v2(experiment: Recipe, profile: Profile, images: ImageLock | None = None, until: str = "") -> Any:
    """The pipeline of a recipe on a cluster profile, ready to compile or to run locally.

    Args:
        experiment: the resolved recipe.
        profile: what each kind of stage asks for.
        images: the images by digest; by tag where it is None.
        until: one of `stages_of(experiment)`, which is then the last; no model is scored on the way to another stage than
            its scores. Empty for the whole pipeline.
    """
    resolved, shape, volume = dump_recipe(experiment), shape_of(experiment), profile.storage.volume
    kept = f"{volume.path}/store" if volume else ""
    release = f"directory:{volume.path}/releases/{experiment.name}" if volume and experiment.push.kind == "directory" else ""
    # Kubeflow's database may refuse a pipeline with characters beyond ASCII; the recipe itself comes escaped.
    title = experiment.title.encode("ascii", "replace").decode()

    @dsl.pipeline(name=pipeline_name(experiment), display_name=title, description=title, pipeline_root=profile.storage.bucket)
    @_as_far_as_asked()
    def pipeline(recipe: str = resolved, overrides: str = "", push_to: str = release, data_root: str = "", store: str = kept,
                 run: str = "") -> None:
        """A run of the recipe.

        Args:
            recipe: The whole experiment as JSON. Leave it as it is; another one is another pipeline.
            overrides: Changes to the recipe, as key.path=value, separated by blanks.
            push_to: directory:PATH or hub:OWNER/NAME; empty for the recipe's place.
            data_root: Folder in which files of the recipe are looked up; empty for none.
            store: Folder of finished artifacts to use again; empty to make all of them.
            run: Name of this run in records; empty for the run's name here.
        """
        def on_its_pool(task: Any, shown_as: str = "", detail: str | int | None = None) -> Any:
            """A task where the profile puts it, under the name that people read."""
            return place(task, profile, experiment, images, detail).set_display_name(shown_as or task.name)

        def built(component: str, detail: str | int | None = None) -> None:
            if component.replace("-", "_") + ("" if detail is None else f"-{detail}") == until:
                raise _Reached

        # Seconds, before any work: is everything there that the recipe will need?
        checked = preflight(recipe=recipe, overrides=overrides, shape=shape, run=run, run_of_engine=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                            store=store, data_root=data_root, push_to=push_to)
        job = on_its_pool(checked).set_caching_options(False).outputs["job_file"]
        built("preflight")

        def stage(component: Any, shown_as: str = "", **inputs: Any) -> Any:
            """Every stage after preflight is told recipe and places by the file that preflight wrote."""
            detail = inputs.get("label", inputs.get("round_number"))
            outputs = on_its_pool(component(job_file=job, **inputs), shown_as, detail).outputs
            built(component.name, detail)
            return outputs

        # The rows that will be scored come first: nothing that is trained on may hold them.
        benchmarks = stage(prepare_benchmarks)["benchmarks"]
        with dsl.ParallelFor(source_parts(experiment), name="sources") as source:
            conversations = stage(prepare_source, name=source)["conversations"]
        mix = stage(mix_data, sources=dsl.Collected(conversations), benchmarks=benchmarks)["mix"]

        # A random base has its tokenizer trained on the mix; a published one comes with its own.
        base = stage(prepare_base, **({"mix": mix} if isinstance(experiment.base, RandomBase) else {}))["base"]

        def score(label: str, **inputs: Any) -> Any:
            """Scores carry those of the models before, so that the last ones tell the whole way."""
            if until and not until.startswith(("evaluate_model-", "decide_release")):
                return None
            return stage(evaluate_model, f"evaluate-{label}", label=label, benchmarks=benchmarks, **inputs)["scores"]

        scores = score("base", model=base)
        packed = stage(pack_data, mix=mix, base=base)["packed"]
        model = sft = stage(train_sft, base=base, packed=packed)["model"]
        scores = score("sft", model=model, earlier=scores)
        rounds = len(experiment.dpo.rounds)
        for number in range(1, rounds + 1):
            pairs = stage(build_preferences, f"build-preferences-{number}", round_number=number, base=base, benchmarks=benchmarks)
            if experiment.dpo.on_policy:
                # The sets' prompts, answered by the last model; the best and the worst answer are the pair.
                answers = stage(sample_answers, f"sample-answers-{number}", round_number=number, policy=model,
                                preferences=pairs["preferences"])["answers"]
                scored = stage(score_answers, f"score-answers-{number}", round_number=number, answers=answers)["scored"]
                pairs = stage(pair_answers, f"pair-answers-{number}", round_number=number, scored=scored, published=pairs["preferences"],
                              base=base, benchmarks=benchmarks)
            # Each round starts from the last model and takes it as its reference.
            model = stage(train_dpo, f"train-dpo-{number}", round_number=number, policy=model, preferences=pairs["preferences"],
                          sft=sft)["model"]
            if experiment.evaluation.every_round or number == rounds:
                scores = score(f"dpo-{number}", model=model, earlier=scores)

        decided = stage(decide_release, scores=scores)
        with dsl.If(decided["Output"] == True, name="approved"):  # noqa: E712
            release_sealed = stage(seal_audit, subject=stage(push_model, model=model, decision=decided["decision"])["release"])
        with dsl.Else(name="refused"):
            refusal_sealed = stage(seal_audit, subject=decided["decision"])
        sealed = dsl.OneOf(release_sealed["Output"], refusal_sealed["Output"])
        stage(summarise_run, "summary", scores=scores, decision=decided["decision"], sealed=sealed)

    return pipeline


def pipeline_name(recipe: Recipe) -> str:
    """What a cluster calls the pipeline of a recipe."""
    return f"med42-{recipe.name.replace('.', '-').replace('_', '-')}"
