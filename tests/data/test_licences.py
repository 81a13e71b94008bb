"""What licences allow, and that a conflict stops a run before anything is fetched."""

import pytest

from med42.data.licences import LICENCES, check_licences, licensed, terms_of
from med42.lineage.journal import Job
from med42.preflight import preflight
from med42.recipe import load_recipe, shipped_recipes
from med42.recipe.derived import shape_of


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_have_licences_that_fit_their_use(name):
    recipe = load_recipe(name)
    told = check_licences(recipe, recipe.push.repo or "")
    assert f"allow {recipe.use} use" in told
    assert {part.key for part in licensed(recipe)} >= {"base", *(f"sources.{source}" for source in recipe.sources)}


def test_commercial_use_names_every_source_that_forbids_it(refusal):
    told = refusal(lambda: check_licences(load_recipe("llama3-8b", ["use=commercial"]), "acme/Llama3-X"))
    assert "use: found commercial" in told
    assert "sources.sciq (CC-BY-NC-3.0)" in told and "sources.opengpt (unknown)" in told
    assert "sources.mmlu" not in told
    assert "allow commercial use" in check_licences(load_recipe("tiny", ["use=commercial"]), "")


@pytest.mark.parametrize(("base", "repo", "fits"), [
    ("llama3", "acme/Llama3-Clinical-8B", True), ("llama3", "acme/Llama-3-Clinical", True), ("llama3", "acme/Clinical-Llama3", False),
    ("llama3.1", "acme/Llama-Clinical", True), ("llama3.1", "acme/Llama3.1-Clinical", True), ("llama3.1", "acme/Med", False),
    ("llama3", "", True), ("Apache-2.0", "acme/anything", True),
])
def test_the_base_asks_for_the_beginning_of_the_name(refusal, base, repo, fits):
    recipe = load_recipe("tiny", [f"base={{kind: hub, repo: meta/base, license: {base}}}"])
    if fits:
        assert check_licences(recipe, repo)
    else:
        assert f"push.repo: found '{repo}'" in refusal(lambda: check_licences(recipe, repo))


@pytest.mark.parametrize(("change", "where"), [
    ("sources.exam.license=cc", "sources.exam.license: found 'cc'"), ("preferences.round-2.license=mit", "preferences.round-2.license"),
    ("base.license=Llama", "base.license"), ("sources.exam.license=unknown", "sources.exam.terms: found no link"),
])
def test_a_licence_that_is_not_known_stops_preflight(tmp_path, refusal, change, where):
    recipe = load_recipe("tiny", [change])
    told = refusal(lambda: preflight(recipe, shape_of(recipe), Job("test"), tmp_path / "verdicts.md", tmp_path / "page.html"))
    assert where in told and "Nothing was started" in told
    assert "| licences | FAILED |" in (tmp_path / "verdicts.md").read_text()


def test_preflights_page_lists_every_licence(tmp_path):
    recipe = load_recipe("tiny")
    preflight(recipe, shape_of(recipe), Job("test"), tmp_path / "verdicts.md", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(part.key in page for part in licensed(recipe))


def test_a_mix_carries_what_its_parts_ask_for():
    assert terms_of({"b": "CC-BY-SA-4.0", "a": "CC-BY-NC-3.0", "c": "unknown", "d": "CC0-1.0"}) == {
        "commercial": False, "attribution": ["a", "b", "c"], "share_alike": ["b"], "non_commercial": ["a"], "unknown": ["c"]}
    assert terms_of({"a": "MIT"})["commercial"]


def test_every_shared_licence_is_read_as_its_letters_say():
    for name, licence in LICENCES.items():
        if name.startswith("CC-BY"):
            assert licence.commercial == ("-NC" not in name) and licence.share_alike == ("-SA" in name)
