import json

import pytest

from med42.data.quotas import quotas
from med42.recipe import Recipe, load_recipe


def recipe_of(medical: int | None = None, general: tuple[int | None, int | None] = (None, None), **mix: object) -> Recipe:
    rows = {"med": medical, "chat": general[0], "code": general[1]}
    sources = {name: {"domain": "medical" if name == "med" else "general", "family": "meadow", "license": "MIT",
                      "origin": {"kind": "file", "files": ["x.jsonl"]}, "rows": count} for name, count in rows.items()}
    return load_recipe("tiny", [f"sources={json.dumps(sources)}", f"mix={json.dumps(mix)}"])


AVAILABLE = {"med": 1000, "chat": 300, "code": 100}


@pytest.mark.parametrize(("share", "expected"), [
    (0.2, {"chat": 188, "code": 62}),     # 1,000 x 0.2 / 0.8 = 250 of 400: 187.5 and 62.5
    (0.25, {"chat": 250, "code": 83}),    # 333.3 is 333: 249.75 and 83.25
    (0.0, {"chat": 0, "code": 0}),
])
def test_the_general_share_is_met_by_scaling_the_general_sources(share, expected):
    taken = quotas(recipe_of(general_share=share), AVAILABLE)
    assert taken == {"med": 1000, **expected}


def test_the_paper_s_share_holds_when_medical_sources_fall_short():
    # 343,529 of 1,296,471 is 26.4973%: within what 26.50% can mean, so nothing is scaled.
    paper = quotas(recipe_of(952_942, (292_576, 50_953), general_share=0.265), {"med": 952_942, "chat": 292_576, "code": 50_953})
    assert sum(paper.values()) == 1_296_471
    short = quotas(recipe_of(952_942, (292_576, 50_953), general_share=0.265, shortfall="accept"),
                   {"med": 900_000, "chat": 292_576, "code": 50_953})
    assert short["med"] == 900_000
    assert (short["chat"] + short["code"]) / sum(short.values()) == pytest.approx(0.265, abs=1e-6)
    assert short["chat"] / short["code"] == pytest.approx(292_576 / 50_953, rel=1e-4)


def test_a_share_that_cannot_be_met_tells_the_arithmetic(refusal):
    told = refusal(lambda: quotas(recipe_of(general_share=0.5, shortfall="accept"), AVAILABLE))
    assert "chat 300 of 750, code 100 of 250" in told
    assert "1,000 medical rows x 0.5 / (1 - 0.5) = 1,000" in told
    assert "mix.general_share" in told


def test_a_share_with_nothing_to_scale_is_refused(refusal):
    none = {**AVAILABLE, "chat": 0, "code": 0}
    assert "0 general rows" in refusal(lambda: quotas(recipe_of(general_share=0.2), none))


def test_repeats_meet_a_share_up_to_the_limit(refusal):
    assert quotas(recipe_of(general_share=0.5, repeat_limit=2.5), AVAILABLE) == {"med": 1000, "chat": 750, "code": 250}
    assert "code 220 of 250" in refusal(lambda: quotas(recipe_of(general_share=0.5, repeat_limit=2.2), AVAILABLE))
