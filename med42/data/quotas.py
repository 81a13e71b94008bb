"""How many rows each source gives to the mix."""

from __future__ import annotations

from fractions import Fraction

from med42.errors import Med42Error
from med42.recipe import Recipe


def quotas(recipe: Recipe, available: dict[str, int]) -> dict[str, int]:
    """Rows to take from each source: from its `rows`, its `weight`, or all it has; then the general share is met.

    Weights share out `mix.rows`, less what fixed rows take, by largest remainder. Rows beyond what a source has are
    taken again, up to `mix.repeat_limit` passes.

    Args:
        recipe: the resolved recipe.
        available: clean rows by source.

    Raises:
        Med42Error: a share exceeds what the source has times `mix.repeat_limit`, or the general share cannot be met; with
            the arithmetic.
    """
    most = {name: int(available[name] * recipe.mix.repeat_limit) for name in recipe.sources}
    wanted = _asked_for(recipe, available)
    for name, count in wanted.items():
        if count > most[name]:
            if recipe.mix.shortfall == "error":
                raise Med42Error(
                    f"sources.{name}", f"{available[name]:,} rows x repeat_limit {recipe.mix.repeat_limit:g} = {most[name]:,}",
                    f"{count:,} rows, its share of the mix, so {count - most[name]:,} are missing",
                    "Lower its rows or weight, raise mix.repeat_limit, or set mix.shortfall to accept.")
            wanted[name] = most[name]
    if recipe.mix.general_share is not None:
        wanted = _with_general_share(recipe, wanted, most, Fraction(str(recipe.mix.general_share)))
    return {name: wanted[name] for name in recipe.sources}


def _asked_for(recipe: Recipe, available: dict[str, int]) -> dict[str, int]:
    fixed = {name: source.rows for name, source in recipe.sources.items() if source.rows is not None}
    weights = {name: Fraction(source.weight) for name, source in recipe.sources.items() if source.weight is not None}
    wanted = {name: fixed.get(name, available[name]) for name in recipe.sources if name not in weights}
    if weights:
        left = (recipe.mix.rows or 0) - sum(wanted.values())
        if left <= 0:
            raise Med42Error("mix.rows", f"{recipe.mix.rows:,}, of which sources without a weight take {sum(wanted.values()):,}",
                             "rows left for the weighted sources", "Raise mix.rows.")
        wanted |= shared_out(left, weights)
    return wanted


def _with_general_share(recipe: Recipe, wanted: dict[str, int], most: dict[str, int], share: Fraction) -> dict[str, int]:
    """Scale the general sources, all by the same factor, until they make up the share; the medical ones stay."""
    general = {name: Fraction(wanted[name]) for name, source in recipe.sources.items() if source.domain == "general"}
    medical = sum(wanted.values()) - int(sum(general.values()))
    total = sum(wanted.values())
    if total and abs(Fraction(int(sum(general.values())), total) - share) <= Fraction(str(recipe.mix.general_tolerance)):
        return wanted
    if share == 1 or not sum(general.values()):
        raise Med42Error("mix.general_share", f"{medical:,} medical and {sum(general.values())} general rows", f"a share of {share}",
                         "Only the general sources are scaled: have some of both, or remove the key.")
    # general / (general + medical) = share, so general = medical x share / (1 - share).
    target = round(medical * share / (1 - share))
    scaled = shared_out(target, general)
    if short := [name for name, count in scaled.items() if count > most[name]]:
        sums = ", ".join(f"{name} {most[name]:,} of {scaled[name]:,}" for name in short)
        raise Med42Error(
            "mix.general_share", f"too few general rows: {sums}",
            f"{target:,} of them, as {medical:,} medical rows x {float(share):g} / (1 - {float(share):g}) = {target:,}",
            "Lower mix.general_share or the medical rows, raise mix.repeat_limit, or add a general source.")
    return wanted | scaled


def shared_out(total: int, weights: dict[str, Fraction]) -> dict[str, int]:
    """Whole numbers in proportion to the weights that add up to the total, by largest remainder."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    whole = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
