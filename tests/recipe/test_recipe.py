from pathlib import Path

import pytest

from med42.errors import Med42Error
from med42.recipe import canonical_recipe, dump_recipe, load_recipe, parse_recipe, recipe_digest, shipped_recipes

CHILD = "extends: tiny\nname: child\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(name: object, overrides: list[str] | None = None) -> str:
    with pytest.raises(Med42Error) as told:
        load_recipe(name, overrides or [])  # type: ignore[arg-type]
    return str(told.value)


# --- what is refused, and in which words ----------------------------------------------------------


def test_unknown_key_names_the_nearest():
    assert "sft: unknown key 'learning_rat'; the nearest known key is 'learning_rate'" in refusal("tiny", ["sft.learning_rat=1.0e-5"])


def test_unknown_key_at_the_top():
    assert "unknown key 'preference'; the nearest known key is 'preferences'" in refusal("tiny", ["preference={}"])


def test_unknown_key_inside_a_named_source():
    assert "sources.exam: unknown key 'familly'; the nearest known key is 'family'" in refusal("tiny", ["sources.exam.familly=meadow"])


def test_wrong_type_names_key_and_value():
    told = refusal("tiny", ["sft.epochs=many"])
    assert "sft.epochs: 'many'" in told
    assert "valid number" in told


@pytest.mark.parametrize(("override", "key"), [
    ("sft.learning_rate=0", "sft.learning_rate"),
    ("sft.learning_rate=.inf", "sft.learning_rate"),
    ("sft.warmup=1.5", "sft.warmup"),
    ("seed=-1", "seed"),
    ("sft.optimizer=sgd", "sft.optimizer"),
    ("dpo.rounds=[[Round 1]]", "dpo.rounds.0.0"),
])
def test_value_out_of_range_names_the_key(override, key):
    assert f"{key}: " in refusal("tiny", [override])


def test_every_problem_is_told_at_once():
    told = refusal("tiny", ["sft.epochs=many", "dpo.beta=0"])
    assert "sft.epochs" in told
    assert "dpo.beta" in told


def test_missing_key_is_named(tmp_path):
    assert "pack.chunk: missing" in refusal(write(tmp_path, "a.yaml", CHILD + "pack: {chunk: null}\n"))


def test_unknown_recipe_names_the_nearest_and_all():
    told = refusal("llama3-8")
    assert "Did you mean 'llama3-8b'?" in told
    assert all(name in told for name in shipped_recipes())


def test_missing_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("text", "found"), [("name: [", "not YAML"), ("- a\n- b\n", "a list"), ("", "a NoneType")])
def test_file_that_is_no_mapping(tmp_path, text, found):
    told = refusal(write(tmp_path, "bad.yaml", text))
    assert found in told
    assert "bad.yaml" in told


def test_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"title: caf\xe9\n")
    assert "not YAML" in refusal(path)


@pytest.mark.parametrize("override", ["sft.steps", "=5"])
def test_override_without_key_and_value(override):
    assert "key.path=value" in refusal("tiny", [override])


def test_override_that_is_not_yaml():
    assert "not YAML" in refusal("tiny", ["title=[a"])


def test_a_batch_that_cannot_be_reached_names_what_reaches_it():
    told = refusal("llama3-8b", ["dpo.batch=240"])
    assert "dpo: batch 240 is no multiple of 16 processes x pairs_per_device 2 = 32" in told
    assert "with 16 processes: pairs_per_device=1, pairs_per_device=3, pairs_per_device=5, pairs_per_device=15" in told
    assert "with pairs_per_device=2: 1, 2, 3, 4, 5, 6, 8, 10, 12, 15," in told
    assert "with pairs_per_device=1: a number of processes that divides 257" in refusal("llama3-8b", ["dpo.batch=257"])


@pytest.mark.parametrize(("change", "told"), [
    ("evaluation.forms=[text]", "answer 'letter_and_text' is not among forms (text)"),
    ("evaluation.normalisation=characters", "evaluation.normalisation"),
    ("evaluation.processes=3", "processes 3 with 1 GPUs; 1 lays one model over all of them"),
    ("evaluation.tokens=0", "evaluation.tokens"),
])
def test_an_evaluation_that_cannot_be_is_refused(change, told):
    assert told in refusal("llama3-8b", [change])


def test_a_batch_below_one_micro_step():
    assert "with pairs_per_device=2: 1, 2, 4 processes" in refusal("llama3-8b", ["dpo.batch=8"])


@pytest.mark.parametrize("rules", ["at_least: 0.5, not_below: base", "at_least: 0.5, at_most: 0.6", "allowance: 0.1"])
def test_gate_needs_one_rule(rules):
    assert "gates.0: needs exactly one of" in refusal("tiny", [f"gates=[{{score: average, {rules}}}]"])


def test_gate_on_a_benchmark_that_is_not_there():
    assert "'bleu' is not one of" in refusal("tiny", ["gates=[{score: bleu, at_least: 0.1}]"])


def test_weight_needs_a_total():
    assert "sources.exam.weight needs mix.rows" in refusal("tiny", ["sources.exam.weight=2"])


def test_rows_and_weight_exclude_each_other():
    assert "has both 'rows' and 'weight'" in refusal("tiny", ["mix.rows=10", "sources.exam.weight=2", "sources.exam.rows=3"])


def test_round_of_a_set_that_is_not_there():
    assert "dpo names 'round-9'" in refusal("tiny", ["dpo.rounds=[[round-9]]"])


def test_held_out_set_must_not_be_trained_on():
    assert "'round-1' is trained on in a round" in refusal("tiny", ["dpo.held_out=[round-1]"])


def test_part_that_does_not_exist():
    assert "part 3 of 2 does not exist" in refusal("tiny", ["preferences.round-1.part={index: 3, of: 2}"])


def test_hub_push_needs_a_repository():
    assert "needs 'repo'" in refusal("tiny", ["push.kind=hub"])


# --- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("override", "read", "value"), [
    ("sft.steps=7", lambda recipe: recipe.sft.steps, 7),
    ("sft.steps=null", lambda recipe: recipe.sft.steps, None),
    ("sft.learning_rate=2.0e-5", lambda recipe: recipe.sft.learning_rate, 2e-5),
    ("sft.betas=[0.8, 0.9]", lambda recipe: recipe.sft.betas, (0.8, 0.9)),
    ("evaluation.every_round=false", lambda recipe: recipe.evaluation.every_round, False),
    ("title=a=b", lambda recipe: recipe.title, "a=b"),
    ("pack={chunk: 512, too_long: drop}", lambda recipe: (recipe.pack.chunk, recipe.pack.too_long), (512, "drop")),
])
def test_override_is_typed_and_changes_the_digest(override, read, value):
    recipe = load_recipe("tiny", [override])
    assert read(recipe) == value
    assert type(read(recipe)) is type(value)
    assert recipe_digest(recipe) != recipe_digest(load_recipe("tiny"))


def test_last_override_wins():
    assert load_recipe("tiny", ["seed=1", "seed=2"]).seed == 2


def test_override_to_the_value_it_had_keeps_the_digest():
    assert recipe_digest(load_recipe("tiny", ["sft.steps=360"])) == recipe_digest(load_recipe("tiny"))


def test_override_makes_a_section_that_was_left_out():
    assert load_recipe("tiny", ["mix.shortfall=accept"]).mix.shortfall == "accept"


def test_dotted_names_stay_whole(tmp_path):
    path = write(tmp_path, "dots.yaml", CHILD + (
        "preferences:\n  snorkel-0.2: {family: ultrafeedback, origin: {kind: invented, part: preferences-1}, license: MIT}\n"
        "  snorkel-0: {family: ultrafeedback, origin: {kind: invented, part: preferences-2}, license: MIT}\n"))
    recipe = load_recipe(path, ["preferences.snorkel-0.2.license=CC-BY-4.0", "preferences.snorkel-0.rows=9"])
    assert recipe.preferences["snorkel-0.2"].license == "CC-BY-4.0"
    assert recipe.preferences["snorkel-0.2"].rows is None
    assert (recipe.preferences["snorkel-0"].license, recipe.preferences["snorkel-0"].rows) == ("MIT", 9)


# --- parents --------------------------------------------------------------------------------------


def test_child_holds_only_what_differs(tmp_path):
    child, parent = load_recipe(write(tmp_path, "child.yaml", CHILD + "sft: {steps: 9}\n")), load_recipe("tiny")
    assert (child.name, child.sft.steps) == ("child", 9)
    assert child.sft == parent.sft.model_copy(update={"steps": 9})
    assert child.sources == parent.sources


def test_sibling_file_as_parent_and_grandparent(tmp_path):
    write(tmp_path, "parent.yaml", CHILD + "seed: 5\n")
    assert load_recipe(write(tmp_path, "grandchild.yaml", "extends: parent.yaml\nname: grandchild\n")).seed == 5


def test_what_is_of_another_kind_takes_the_whole_place(tmp_path):
    exam = "sources: {exam: {origin: {kind: file, files: [exam.jsonl]}}}\n"
    child = load_recipe(write(tmp_path, "child.yaml", CHILD + exam + "base: {kind: hub, repo: acme/base, license: llama3}\n"))
    assert child.sources["exam"].origin.model_dump() == {"kind": "file", "files": ["exam.jsonl"]}
    assert child.sources["exam"].family == load_recipe("tiny").sources["exam"].family
    assert child.base.repo == "acme/base"


def test_null_removes_a_key(tmp_path):
    child = load_recipe(write(tmp_path, "child.yaml", CHILD + "sources: {chats: null}\nsft: {steps: null}\n"))
    assert "chats" not in child.sources
    assert child.sft.steps is None


def test_lists_are_replaced_and_not_joined(tmp_path):
    child = load_recipe(write(tmp_path, "child.yaml", CHILD + "gates: [{score: average, at_least: 0.1}]\n"))
    assert [gate.at_least for gate in child.gates] == [0.1]


def test_unknown_parent_names_the_nearest(tmp_path):
    assert "Did you mean 'tiny'?" in refusal(write(tmp_path, "child.yaml", "extends: tini\n"))


def test_leaving_the_stand_in_out_keeps_the_listed_rows(tmp_path):
    listed = load_recipe(write(tmp_path, "listed.yaml", "extends: llama3-8b\nname: listed\nsources: {ultramedical: null}\n"))
    assert sum(source.rows for source in listed.sources.values()) == 891_071


# --- digest and text ------------------------------------------------------------------------------


def test_digest_does_not_depend_on_the_order_of_keys(tmp_path):
    forward = write(tmp_path, "a.yaml", CHILD + "sft: {steps: 9, warmup: 0.1}\npack: {chunk: 512}\n")
    backward = write(tmp_path, "b.yaml", "pack: {chunk: 512}\nsft: {warmup: 0.1, steps: 9}\nname: child\nextends: tiny\n")
    assert recipe_digest(load_recipe(forward)) == recipe_digest(load_recipe(backward))


def test_digest_does_not_depend_on_how_a_number_is_written(tmp_path):
    one = write(tmp_path, "a.yaml", CHILD + "sft: {epochs: 2, learning_rate: 0.003}\n")
    other = write(tmp_path, "b.yaml", CHILD + "sft: {epochs: 2.0, learning_rate: 3.0e-3}\n")
    assert recipe_digest(load_recipe(one)) == recipe_digest(load_recipe(other))


def test_digests_tell_the_shipped_recipes_apart():
    digests = {recipe_digest(load_recipe(name)) for name in shipped_recipes()}
    assert len(digests) == len(shipped_recipes())
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)


@pytest.mark.parametrize("name", shipped_recipes())
def test_text_round_trip(name):
    recipe = load_recipe(name)
    text = dump_recipe(recipe)
    again = parse_recipe(text)
    assert again == recipe
    assert dump_recipe(again) == text
    assert recipe_digest(again) == recipe_digest(recipe)


def test_text_is_ascii_whatever_the_recipe_holds():
    recipe = load_recipe("tiny", ["title=Äskulap \u2695"])
    text = dump_recipe(recipe)
    assert text.isascii()
    assert parse_recipe(text).title == "Äskulap \u2695"
    assert canonical_recipe(parse_recipe(text)) == canonical_recipe(recipe)


def test_overrides_apply_to_text_too():
    assert parse_recipe(dump_recipe(load_recipe("tiny")), ["sft.steps=3"]).sft.steps == 3


@pytest.mark.parametrize(("text", "found"), [("{", "not JSON"), ("[]", "a list")])
def test_text_that_is_no_recipe(text, found):
    with pytest.raises(Med42Error, match=found):
        parse_recipe(text)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("tiny").seed = 1  # type: ignore[misc]
