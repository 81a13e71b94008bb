"""Med42-v2 as one pipeline: data mixing -> SFT -> rounds of DPO -> evaluation -> release gate -> push -> audit bundle.

A pipeline is built from a recipe: its sources become the iterations of a loop, its DPO rounds are unrolled, and the
resolved recipe is the pipeline's one large parameter. Everything else about a run is where things lie.
"""

from typing import Any

from kfp import dsl

from components.build_preferences.component import build_preferences
from components.decide_release.component import decide_release
from components.evaluate_model.component import evaluate_model
from components.mix_data.component import mix_data
from components.pack_data.component import pack_data
from components.preflight.component import preflight
from components.prepare_base.component import prepare_base
from components.prepare_benchmarks.component import prepare_benchmarks
from components.prepare_source.component import prepare_source
from components.push_model.component import push_model
from components.seal_audit.component import seal_audit
from components.train_dpo.component import train_dpo
from components.train_sft.component import train_sft
from med42.cluster.profile import Profile
from med42.preflight import shape_of
from med42.recipe import Recipe, dump_recipe
from med42.recipe.schema import RandomBase
from pipelines.placement import place


def med42_v2(experiment: Recipe, profile: Profile) -> Any:
    """The pipeline of a recipe on a cluster profile, ready to compile or to run locally."""
    resolved, shape = dump_recipe(experiment), shape_of(experiment)

    @dsl.pipeline(name=f"med42-{experiment.name.replace('.', '-')}", description=experiment.title)
    def pipeline(recipe: str = resolved, overrides: str = "", push_to: str = "", data_root: str = "", store: str = "", run: str = "") -> None:
        def task(component: Any, shown_as: str = "", **inputs: Any) -> Any:
            """A component on its pool, under the name that people read."""
            placed = place(component(**inputs), component.name.replace("-", "_"), profile, experiment)
            return placed.set_display_name(shown_as or component.name)

        # Seconds, before any work: is everything there that the recipe will need?
        checked = task(preflight, recipe=recipe, overrides=overrides, shape=shape, job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, run=run,
                       store=store, data_root=data_root, push_to=push_to).set_caching_options(False)
        common = {"recipe": checked.outputs["recipe"], "run": checked.outputs["run"], "store": store}

        # The rows that will be scored come first: nothing that is trained on may hold them.
        benchmarks = task(prepare_benchmarks, **common, data_root=data_root).outputs["benchmarks"]
        with dsl.ParallelFor(sorted(experiment.sources), name="sources") as source:
            prepared = task(prepare_source, **common, name=source, data_root=data_root)
        mix = task(mix_data, **common, sources=dsl.Collected(prepared.outputs["conversations"]), benchmarks=benchmarks).outputs["mix"]

        # A random base has its tokenizer trained on the mix; a published one comes with its own.
        base = task(prepare_base, **common, **({"mix": mix} if isinstance(experiment.base, RandomBase) else {})).outputs["base"]
        packed = task(pack_data, **common, mix=mix, base=base).outputs["packed"]
        model = task(train_sft, **common, base=base, packed=packed).outputs["model"]

        def score(label: str, scored: Any, **earlier: Any) -> Any:
            """Scores carry those of the models before, so that the last ones tell the whole way."""
            return task(evaluate_model, shown_as=f"evaluate-{label}", **common, label=label, model=scored, benchmarks=benchmarks, **earlier).outputs["scores"]

        scores = score("sft", model, earlier=score("base", base))
        rounds = len(experiment.dpo.rounds)
        for number in range(1, rounds + 1):
            pairs = task(build_preferences, shown_as=f"build-preferences-{number}", **common, round_number=number, data_root=data_root,
                         base=base, benchmarks=benchmarks).outputs["preferences"]
            # Each round starts from the last model and takes it as its reference.
            model = task(train_dpo, shown_as=f"train-dpo-{number}", **common, round_number=number, policy=model, preferences=pairs).outputs["model"]
            if experiment.evaluation.every_round or number == rounds:
                scores = score(f"dpo-{number}", model, earlier=scores)

        decided = task(decide_release, **common, scores=scores)
        with dsl.If(decided.outputs["Output"] == True, name="approved"):  # noqa: E712
            release = task(push_model, **common, push_to=push_to, model=model, decision=decided.outputs["decision"]).outputs["release"]
            task(seal_audit, **common, subject=release)
        with dsl.Else(name="refused"):
            task(seal_audit, **common, subject=decided.outputs["decision"])

    return pipeline
