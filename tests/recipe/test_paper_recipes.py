"""The paper's tables, typed in here a second time, against the keys of the four recipes (arXiv 2408.06142)."""

from fnmatch import fnmatch

import pytest

from med42.recipe import load_recipe, shipped_recipes
from med42.recipe.derived import Fact, derived_facts, expected_chunks, expected_rows, expected_sft_steps
from med42.recipe.schema import FileOrigin, HubOrigin, Recipe
from med42.recipe.table_5 import Line, data_lines, unlisted_rows

EIGHT = ("llama3-8b", "llama3.1-8b")
SEVENTY = ("llama3-70b", "llama3.1-70b")
ALL = EIGHT + SEVENTY

# Table 5: samples and percent of the mixture.
MEDICAL = {
    "medmcqa": (180_462, 13.92),
    "medical-flashcards": (30_106, 2.32),
    "stackexchange": (64_246, 4.96),
    "medqa": (11_290, 0.87),
    "cord19": (17_721, 1.37),
    "pubmedqa": (499, 0.04),
    "headqa": (2_657, 0.20),
    "mediqa": (1_950, 0.15),
    "sciq": (11_679, 0.90),
    "pubmed-causal": (2_169, 0.17),
    "opengpt": (66_026, 5.09),
    "medquad": (14_553, 1.12),
    "mmlu": (244, 0.02),
    "niv2": (11_447, 0.88),
    "pubhealth": (9_804, 0.76),
    "medical-instruction": (120_000, 9.26),
    "aci-bench": (87, 0.01),
    "mts-dialog": (2_602, 0.20),
}
GENERAL = {
    "slimorca-t0": (109_235, 8.43),
    "slimorca-flan": (109_169, 8.42),
    "slimorca-cot": (74_172, 5.72),
    "ultrachat": (50_953, 3.93),
}
# Table 2, the rows that differ by size: nodes, GPUs a node, steps, tokens a step.
TABLE_2 = dict.fromkeys(EIGHT, (2, 8, 5_321, 262_144)) | dict.fromkeys(SEVENTY, (6, 8, 3_549, 393_216))
# Table 3, the rows that differ by size: nodes, GPUs a node, beta, batch.
TABLE_3 = dict.fromkeys(EIGHT, (2, 8, 0.1, 256)) | dict.fromkeys(SEVENTY, (4, 8, 0.01, 128))
BASES = {
    "llama3-8b": ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3", "Med42-Llama3-8B"),
    "llama3.1-8b": ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3.1", "Med42-Llama3.1-8B"),
    "llama3-70b": ("meta-llama/Meta-Llama-3-70B-Instruct", "llama3", "Med42-Llama3-70B"),
    "llama3.1-70b": ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama3.1", "Med42-Llama3.1-70B"),
}


@pytest.fixture(params=ALL, scope="module")
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return load_recipe(request.param)


def fact(recipe: Recipe, name: str) -> Fact:
    found = [fact for fact in derived_facts(recipe) if fact.name == name]
    assert len(found) == 1
    return found[0]


def test_the_four_recipes_are_shipped_smallest_first():
    assert [name for name in shipped_recipes() if name in ALL] == ["llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-70b"]


def test_base_model_and_its_licence(recipe):
    assert (recipe.base.kind, recipe.base.repo, recipe.base.license) == ("hub", *BASES[recipe.name][:2])
    assert recipe.paper.model == BASES[recipe.name][2]


def test_pushed_name_begins_as_the_base_licence_asks(recipe):
    owner, name = recipe.push.repo.split("/")
    assert owner == "your-organisation"
    assert name.startswith("Llama3" if recipe.base.license == "llama3" else "Llama")
    assert recipe.push.private


def test_table_2_rows_that_differ_by_size(recipe):
    nodes, gpus, steps, tokens = TABLE_2[recipe.name]
    assert (recipe.sft.devices.nodes, recipe.sft.devices.gpus_per_node) == (nodes, gpus)
    assert (recipe.paper.sft_gpus, recipe.paper.sft_steps, recipe.paper.sft_tokens_per_step) == (nodes * gpus, steps, tokens)


def test_table_2_rows_that_all_share(recipe):
    sft = recipe.sft
    assert (sft.devices.accelerator, sft.optimizer, sft.learning_rate, sft.betas) == ("H100", "adamw", 5e-6, (0.9, 0.95))
    assert (sft.weight_decay, sft.schedule, sft.epochs, recipe.pack.chunk) == (0.01, "cosine", 2, 8192)
    assert sft.warmup > 0
    assert sft.steps is None


def test_sft_batch_reaches_the_printed_tokens_a_step(recipe):
    assert recipe.sft.batch * recipe.pack.chunk == TABLE_2[recipe.name][3]
    assert recipe.sft.rows_per_device == (2 if recipe.name in EIGHT else 1)


def test_table_3_rows_that_differ_by_size(recipe):
    nodes, gpus, beta, batch = TABLE_3[recipe.name]
    assert (recipe.dpo.devices.nodes, recipe.dpo.devices.gpus_per_node, recipe.dpo.beta, recipe.dpo.batch) == (nodes, gpus, beta, batch)
    assert recipe.paper.dpo_gpus == nodes * gpus


def test_table_3_rows_that_all_share(recipe):
    dpo = recipe.dpo
    assert (dpo.devices.accelerator, dpo.optimizer, dpo.learning_rate, dpo.weight_decay) == ("H100", "rmsprop", 1e-6, 0.0)
    assert (dpo.schedule, dpo.max_length, dpo.epochs) == ("cosine", 4096, 1)
    assert dpo.warmup > 0


def test_three_rounds_of_published_pairs(recipe):
    assert recipe.dpo.rounds == [["ultrafeedback", "snorkel-1"], ["snorkel-2"], ["snorkel-3"]]
    assert {name: source.rows for name, source in recipe.preferences.items()} == {
        "ultrafeedback": 61_135, "snorkel-1": 19_766, "snorkel-2": 19_958, "snorkel-3": 19_996}
    assert {source.family for source in recipe.preferences.values()} == {"ultrafeedback"}


@pytest.mark.parametrize(("table", "domain"), [(MEDICAL, "medical"), (GENERAL, "general")])
def test_table_5_samples_and_shares(recipe, table, domain):
    found = {name: (source.paper_rows, source.paper_percent) for name, source in recipe.sources.items()
             if source.domain == domain and source.paper_percent is not None}
    assert found == table
    assert {name: recipe.sources[name].rows for name in table} == {name: rows for name, (rows, _) in table.items()}


def test_table_5_printed_sums(recipe):
    paper = recipe.paper
    assert (paper.medical_rows, paper.general_rows, paper.total_rows) == (952_942, 343_529, 1_296_471)
    assert (paper.medical_percent, paper.general_percent) == (73.50, 26.50)


def test_the_stand_in_is_the_only_source_without_a_row_in_table_5(recipe):
    for key in ("paper_percent", "paper_rows"):
        assert [name for name, source in recipe.sources.items() if getattr(source, key) is None] == ["ultramedical"]
    assert recipe.sources["ultramedical"].rows == 952_942 - sum(rows for rows, _ in MEDICAL.values()) == 405_400


def test_rows_add_up_to_the_printed_totals(recipe):
    rows = expected_rows(recipe)
    medical = sum(rows[name] for name, source in recipe.sources.items() if source.domain == "medical")
    assert (medical, sum(rows.values())) == (952_942, 1_296_471)


def lines_of(recipe: Recipe) -> dict[str, Line]:
    return {line.name: line for line in data_lines(recipe)}


def test_every_printed_number_is_reproduced(recipe):
    assert all(fact.agrees is not False for fact in derived_facts(recipe))
    lines = lines_of(recipe)
    assert all(line.difference in (0, None) for line in lines.values())
    assert [name for name, line in lines.items() if line.share_agrees is False] == ["medical, as listed"]  # 42.23, and 42.24 added up


def test_every_line_of_table_5_is_compared_in_its_order(recipe):
    lines = lines_of(recipe)
    assert list(lines) == [*MEDICAL, "medical, as listed", "ultramedical", "medical", *GENERAL, "general", "all"]
    for name, (rows, percent) in (MEDICAL | GENERAL).items():
        assert (lines[name].printed, lines[name].printed_percent, lines[name].share_agrees) == (rows, percent, True)
    stand_in = lines["ultramedical"]
    assert (stand_in.rows, stand_in.printed, stand_in.difference, stand_in.share_agrees) == (405_400, None, None, None)
    assert [(lines[name].rows, lines[name].printed) for name in ("medical", "general", "all")] == [
        (952_942, 952_942), (343_529, 343_529), (1_296_471, 1_296_471)]


def test_the_rows_that_have_no_line_are_counted(recipe):
    listed = lines_of(recipe)["medical, as listed"]
    assert (listed.rows, listed.printed) == (547_542, 547_542)
    assert listed.percent == pytest.approx(42.2333, abs=1e-4)
    assert listed.printed_percent == pytest.approx(42.24)
    assert unlisted_rows(recipe) == 405_400


def test_a_count_of_our_own_is_told_beside_the_printed_one(tmp_path):
    (tmp_path / "listed.yaml").write_text("extends: llama3-8b\nsources: {ultramedical: null, medmcqa: {rows: 182822}}\n")
    lines = lines_of(load_recipe(tmp_path / "listed.yaml"))
    assert (lines["medmcqa"].difference, lines["medmcqa"].share_agrees) == (2_360, False)
    assert (lines["medical"].difference, lines["general"].difference, lines["all"].difference) == (2_360 - 405_400, 0, 2_360 - 405_400)


def test_a_recipe_of_ones_own_has_lines_without_the_paper():
    lines = lines_of(load_recipe("tiny"))
    assert list(lines) == ["flashcards", "exam", "statements", "abstracts", "medical", "chats", "general", "all"]
    assert all((line.rows, line.percent, line.printed, line.note) == (None, None, None, "") for line in lines.values())
    assert unlisted_rows(load_recipe("tiny")) == 0


def test_every_note_is_of_a_source(recipe):
    assert set(recipe.paper.notes) <= set(recipe.sources)


@pytest.mark.parametrize(("name", "gpus", "chunks", "tokens", "steps"), [
    ("llama3-8b", 16, 32, 262_144, 5_322), ("llama3.1-8b", 16, 32, 262_144, 5_322),
    ("llama3-70b", 48, 48, 393_216, 3_548), ("llama3.1-70b", 48, 48, 393_216, 3_548),
])
def test_sft_facts(name, gpus, chunks, tokens, steps):
    recipe = load_recipe(name)
    ours = {fact.name: fact.ours for fact in derived_facts(recipe)}
    assert (ours["SFT GPUs"], ours["SFT chunks a step"], ours["SFT tokens a step"], ours["SFT steps"]) == (gpus, chunks, tokens, steps)
    assert fact(recipe, "SFT steps").paper == TABLE_2[name][2]


def test_expected_steps_are_marked_as_no_confirmation(recipe):
    # 1,296,471 rows x 538 tokens / 8,192 = 85,144.2
    assert expected_chunks(recipe) == 85_145
    steps = fact(recipe, "SFT steps")
    assert steps.ours != steps.paper
    assert steps.agrees
    assert steps.tolerance < 5
    assert "no confirmation" in steps.note


def test_tokens_a_row_come_from_the_printed_steps():
    recipe = load_recipe("llama3-8b")
    assert recipe.pack.expected_tokens_per_row == round(5_321 * 262_144 / 2 / 1_296_471) == 538


@pytest.mark.parametrize(("name", "steps"), [("llama3-8b", [317, 78, 79]), ("llama3-70b", [633, 156, 157])])
def test_dpo_facts(name, steps):
    recipe = load_recipe(name)
    rounds = (1, 2, 3)
    assert [fact(recipe, f"DPO pairs in round {number}").ours for number in rounds] == [80_901, 19_958, 19_996]
    assert [fact(recipe, f"DPO steps in round {number}").ours for number in rounds] == steps
    assert all(fact(recipe, f"DPO steps in round {number}").agrees is None for number in rounds)


def test_a_wrong_setting_is_told():
    wrong = load_recipe("llama3-8b", ["sft.devices.nodes=1", "sources.medmcqa.rows=182822"])
    told = {fact.name for fact in derived_facts(wrong) if fact.agrees is False}
    assert {"SFT GPUs", "SFT steps"} <= told


def test_tiny_has_facts_and_nothing_of_the_paper():
    facts = derived_facts(load_recipe("tiny"))
    assert all(fact.paper is None and fact.agrees is None for fact in facts)
    by_name = {fact.name: fact.ours for fact in facts}
    assert (by_name["SFT GPUs"], by_name["SFT tokens a step"], by_name["SFT steps"]) == (0, 8 * 256, 360)
    assert by_name["DPO pairs in round 1"] is None


def test_weights_share_out_what_fixed_rows_leave():
    recipe = load_recipe("tiny", [
        "mix.rows=1000", "sources.exam.rows=100", *(f"sources.{name}.weight={weight}" for name, weight in
                                                    (("flashcards", 2), ("statements", 1), ("abstracts", 1), ("chats", 1)))])
    assert expected_rows(recipe) == {"flashcards": 360, "exam": 100, "statements": 180, "abstracts": 180, "chats": 180}


def test_steps_as_set_need_no_estimate():
    assert expected_sft_steps(load_recipe("llama3-8b", ["sft.steps=7"])) == 7


def test_a_part_of_a_preference_set_is_counted_as_a_part():
    recipe = load_recipe("llama3-8b", ["preferences.snorkel-2.part={index: 1, of: 2}"])
    assert fact(recipe, "DPO pairs in round 2").ours == 9_979


@pytest.mark.parametrize(("family", "items"), [
    ("mmlu_pro", 825), ("mmlu", 1_089), ("medmcqa", 4_183), ("medqa", 1_273), ("usmle", 325), ("pubmedqa", 500), ("toxigen", 940)])
def test_benchmarks_are_the_seven_columns_of_table_4(recipe, family, items):
    assert len(recipe.evaluation.benchmarks) == 7
    benchmark = recipe.evaluation.benchmarks[family.replace("_", "-")]
    assert (benchmark.family, benchmark.paper_items, benchmark.in_average) == (family, items, True)


@pytest.mark.parametrize(("repo", "published", "trained_on", "scored"), [
    ("cais/mmlu", "anatomy/dev-00000-of-00001.parquet", True, False),
    ("cais/mmlu", "anatomy/validation-00000-of-00001.parquet", True, False),
    ("cais/mmlu", "anatomy/test-00000-of-00001.parquet", False, True),
    ("openlifescienceai/medmcqa", "data/train-00000-of-00001.parquet", True, False),
    ("openlifescienceai/medmcqa", "data/validation-00000-of-00001.parquet", False, True),
    ("GBaker/MedQA-USMLE-4-options-hf", "default/validation/0000.parquet", True, False),
    ("GBaker/MedQA-USMLE-4-options-hf", "default/test/0000.parquet", False, True),
    ("bigbio/pubmed_qa", "pubmed_qa_labeled_fold0_source/validation/0000.parquet", True, False),
    ("bigbio/pubmed_qa", "pubmed_qa_labeled_fold0_source/test/0000.parquet", False, True),
])
def test_training_and_scoring_read_different_files_of_a_repository(recipe, repo, published, trained_on, scored):
    def reads(entries):
        origins = [entry.origin for entry in entries if getattr(entry.origin, "repo", "") == repo]
        return any(fnmatch(published, pattern) for origin in origins for pattern in origin.files)

    assert (reads(recipe.sources.values()), reads(recipe.evaluation.benchmarks.values())) == (trained_on, scored)


def test_every_site_has_its_files(recipe):
    for name in ("stackexchange", "mmlu"):
        source = recipe.sources[name]
        assert len(source.origin.files) == len(source.sites)
        assert all(site in pattern for site, pattern in zip(source.sites, source.origin.files, strict=True))
    assert (len(recipe.sources["stackexchange"].sites), len(recipe.sources["mmlu"].sites)) == (6, 13)


def test_niv2_takes_47_tasks_and_none_made_of_mmlu(recipe):
    patterns = recipe.sources["niv2"].origin.files
    assert len(set(patterns)) == len(patterns) == 47
    numbers = {int(pattern.split("task")[1].split("_")[0]) for pattern in patterns}
    assert not numbers & set(range(664, 738))


def test_medical_sources_share_one_system_turn_and_general_ones_have_none(recipe):
    medical = {source.system for source in recipe.sources.values() if source.domain == "medical"}
    general = {source.system for source in recipe.sources.values() if source.domain == "general"}
    assert len(medical) == 1
    assert "Med42" not in medical.pop()
    assert general == {None}


def test_a_source_without_a_licence_says_where_to_look(recipe):
    for name, source in recipe.sources.items():
        assert source.license, name
        assert source.license != "unknown" or source.terms.startswith("https://"), name
        assert isinstance(source.origin, HubOrigin) or (isinstance(source.origin, FileOrigin) and source.terms.startswith("https://")), name


def test_gates_hold_the_average_and_toxicity_against_the_base(recipe):
    compared = [(gate.score, gate.of, gate.not_below, gate.allowance) for gate in recipe.gates if gate.score]
    assert compared == [("average", "whole", "base", 0.0), ("toxigen", "whole", "base", 0.01), ("mmlu", "worst_subject", "base", 0.0)]
    assert {gate.check for gate in recipe.gates} == {None, "residue", "licences"}
