"""Which stages speak to a network; all others run without one."""

from __future__ import annotations

from med42.recipe import Recipe
from med42.recipe.parts import source_of
from med42.recipe.schema import BucketOrigin, HubBase, HubOrigin, ServerSampler


def needs_network(recipe: Recipe, stage: str, name: str, push_to: str) -> bool:
    """Whether a stage fetches from a hub or a bucket, pushes, asks a server of completions, keeps checkpoints afar or signs by sigstore.

    Args:
        recipe: the resolved recipe.
        stage: the stage, as `prepare_source`.
        name: the source, or the number of the round, that the stage works on.
        push_to: the run's own place to push to, instead of the recipe's.
    """
    def from_afar(*origins: object) -> bool:
        return any(isinstance(origin, (HubOrigin, BucketOrigin)) for origin in origins)

    def pairs(names: list[str]) -> bool:
        return from_afar(*(recipe.preferences[name].origin for name in names))

    pushes = (push_to.partition(":")[0] or recipe.push.kind) == "hub"
    match stage:
        case "prepare_source":
            source = recipe.sources[source_of(name)]
            return from_afar(source.origin, source.labels)
        case "prepare_benchmarks":
            return from_afar(*(benchmark.origin for benchmark in recipe.evaluation.benchmarks.values()))
        case "prepare_base":
            return isinstance(recipe.base, HubBase)
        case "build_preferences":
            return pairs(recipe.dpo.rounds[int(name) - 1]) or pairs(recipe.dpo.held_out)
        case "train_sft" | "train_dpo":
            settings = recipe.sft if stage == "train_sft" else recipe.dpo
            return bool(settings.checkpoint_bucket and settings.checkpoint_every)
        case "sample_answers":
            return recipe.dpo.on_policy is not None and isinstance(recipe.dpo.on_policy.sampler, ServerSampler)
        case "evaluate_model":
            return recipe.evaluation.server is not None
        case "push_model":
            return pushes or recipe.audit.signed == "sigstore"
        case "seal_audit":
            return recipe.audit.signed == "sigstore"
        case "preflight":  # asks whether what the others need is there
            return (
                pushes or isinstance(recipe.base, HubBase)
                or any(needs_network(recipe, "prepare_source", source, push_to) for source in recipe.sources)
                or needs_network(recipe, "prepare_benchmarks", "", push_to)
                or any(pairs(names) for names in [*recipe.dpo.rounds, recipe.dpo.held_out])
            )
        case _:
            return False
