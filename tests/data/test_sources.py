import re
from collections import Counter
from typing import Any

import pytest
from published_rows import ROWS, UNREAD, source

from med42.data.conversation import Dropped, checked, conversation, row_digest
from med42.data.decontaminate import overlap_with
from med42.data.families import families
from med42.data.html_text import plain
from med42.data.options import WORDINGS, question_with_options
from med42.data.prepare_source import find_converter
from med42.data.row import ColumnError
from med42.data.sources import pubmedqa
from med42.recipe import load_recipe
from med42.recipe.schema import Mix

SYSTEM = "You are careful."
TEXT_COLUMNS = [
    ("aci_bench", "dialogue"), ("aci_bench", "note"), ("headqa", "qtext"), ("medical_instruction", "Conversation"), ("medqa", "sent1"),
    ("medqa", "ending3"), ("mmlu", "question"), ("niv2", "definition"), ("niv2", "inputs"), ("niv2", "targets"), ("opengpt", "text"),
    ("pubhealth", "claim"), ("pubhealth", "explanation"), ("sciq", "question"), ("sciq", "distractor2"), ("sciq", "correct_answer"),
    ("sciq", "support"), ("stackexchange", "question"),
    ("medmcqa", "exp"),
    ("meadow", "instruction"), ("meadow", "input"), ("meadow", "output"), ("medmcqa", "question"), ("medmcqa", "opa"), ("medmcqa", "opd"),
    ("medquad", "question"), ("medquad", "answer"), ("mts_dialog", "ID"), ("mts_dialog", "section_header"), ("mts_dialog", "section_text"),
    ("mts_dialog", "dialogue"), ("pubmedqa", "QUESTION"), ("pubmedqa", "final_decision"), ("pubmedqa", "LONG_ANSWER"),
]


def results(family: str, system: str | None = None, **changes: Any) -> list[Any]:
    """What a family's row gives, worded as benchmarks are."""
    row = {**ROWS[family], **changes}
    return list(find_converter(family, "sources.x").conversations(row, source(family, system, wordings="plain")))


def only(family: str, **changes: Any) -> Any:
    (result,) = results(family, **changes)
    return result


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant") * len(contents), contents, strict=False)]


# --- every family ---------------------------------------------------------------------------------


def test_every_converter_is_tested_here():
    assert set(ROWS) == set(families("med42.data.sources"))


@pytest.mark.parametrize("family", ROWS)
def test_the_recipes_name_families_by_module(family):
    assert all(source.family in ROWS for source in load_recipe("tiny").sources.values())
    assert find_converter(family.replace("_", "-"), "sources.x") is find_converter(family, "sources.x")


def test_a_family_that_is_not_there_is_told(refusal):
    told = refusal(lambda: find_converter("medqua", "sources.x"))
    assert "sources.x.family: found 'medqua'" in told
    assert all(family in told for family in families("med42.data.sources"))


@pytest.mark.parametrize(("family", "column"), [
    (family, column) for family, row in ROWS.items() for column in row if column not in UNREAD.get(family, ())
])
def test_a_missing_column_names_those_that_are_there(family, column):
    row = {key: value for key, value in ROWS[family].items() if key != column} | {"other": 1}
    with pytest.raises(ColumnError) as told:
        list(find_converter(family, "sources.x").conversations(row, source(family)))
    assert told.value.column == column
    assert "other" in told.value.found


@pytest.mark.parametrize(("family", "column"), TEXT_COLUMNS)
@pytest.mark.parametrize("value", [3, ["a"], {"a": "b"}, True, "half \ud83d"], ids=ascii)
def test_a_column_that_holds_no_text_is_refused(family, column, value):
    with pytest.raises(ColumnError) as told:
        results(family, **{column: value})
    assert told.value.column == column


@pytest.mark.parametrize("family", ROWS)
def test_columns_besides_change_nothing(family):
    assert results(family, more=1, **{"Explanation": None}) == results(family)


@pytest.mark.parametrize("family", ROWS)
def test_a_system_turn_is_put_first(family):
    for alone, led in zip(results(family), results(family, SYSTEM), strict=True):
        assert led == [{"role": "system", "content": SYSTEM}, *alone]


# --- each family ----------------------------------------------------------------------------------


def test_meadow():
    assert only("meadow") == turns("Answer truthfully\n\nWhat is asthma?", "A disease.")
    assert only("meadow", instruction="") == only("meadow", instruction=None) == turns("What is asthma?", "A disease.")
    assert only("meadow", input=" ") == turns("Answer truthfully", "A disease.")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"instruction": None, "input": ""}, "empty user turn"), ({"output": "  "}, "empty assistant turn"),
    ({"output": None}, "empty assistant turn"),
])
def test_meadow_without_a_turn(changes, reason):
    assert only("meadow", **changes) == Dropped(reason)


def test_medmcqa():
    expected = turns("Which is right?\nA. one\nB. two\nC. three\nD. four", "B. two\n\nTwo is even.")
    assert only("medmcqa") == only("medmcqa", cop="1") == only("medmcqa", cop=" 1 ") == expected
    assert only("medmcqa", cop=0)[1]["content"] == "A. one\n\nTwo is even."
    assert only("medmcqa", exp=None)[1]["content"] == only("medmcqa", exp=" ")[1]["content"] == "B. two"


@pytest.mark.parametrize(("said", "reason"), [
    ("Ans. is 'b' i.e., Two. Two is even.", "Two. Two is even."), ("Ans. (b) Two", "Two"), ("Ans: B (two)", "(two)"), ("Answer: b", ""),
    ("Ans) b - it is even", "it is even"), ("ANSWER IS B. Even.", "Even."), ("Ans. is \u2018b\u2019 i.e. even", "even"),
    ("Ans. is 'c' i.e., Three", ""), ("Ans. C. Odd.", ""), ("(d) Ans is d", "(d) Ans is d"),
    ("Ans. A patient of 60.", "Ans. A patient of 60."), ("Ans. is aspirin", "Ans. is aspirin"), ("Answers differ.", "Answers differ."),
    ("Ansa b.", "Ansa b."), ("Two is even. Ans. C.", "Two is even. Ans. C."),
])
def test_an_explanation_that_begins_with_the_answer_loses_it_and_one_of_another_answer_is_left_off(said, reason):
    assert only("medmcqa", exp=said)[1]["content"] == f"B. two\n\n{reason}".strip()


@pytest.mark.parametrize(("changes", "reason"), [
    ({"cop": 4}, "option index is out of range"), ({"cop": -1}, "option index is out of range"),
    ({"cop": "-1"}, "option index is out of range"),
    ({"opc": ""}, "empty option"), ({"opc": None}, "empty option"), ({"opa": " \n"}, "empty option"),
    ({"question": ""}, "empty question"), ({"question": None}, "empty question"),
])
def test_medmcqa_that_cannot_be_asked(changes, reason):
    assert only("medmcqa", **changes) == Dropped(reason)


@pytest.mark.parametrize("value", [None, "", "B", 1.0, True, [1], "1.0", "--1", "-", "\u00b2", "1e3", "1_0", "9" * 5000],
                         ids=lambda value: ascii(value)[:20])
def test_an_index_that_is_no_whole_number_is_refused(value):
    with pytest.raises(ColumnError, match="a whole number") as told:
        results("medmcqa", cop=value)
    assert told.value.column == "cop"


def test_medquad_loses_the_pages_layout():
    assert only("medquad") == turns("What is (are)  Asthma?", "Key Points\n- A disease. Of airways.\n\nEnd")


@pytest.mark.parametrize(("changes", "reason"), [({"answer": None}, "empty assistant turn"), ({"question": " "}, "empty user turn")])
def test_medquad_without_a_turn(changes, reason):
    assert only("medquad", **changes) == Dropped(reason)


def test_mts_dialog_asks_for_header_and_summary():
    header, summary = results("mts_dialog")
    dialogue = "Doctor: Hello. \nPatient: I cough."
    assert (header[1]["content"], summary[1]["content"]) == ("GENHX", "A cough.")
    assert header[0]["content"].endswith(f"\n\n{dialogue}")
    assert summary[0]["content"].endswith(f"\n\n{dialogue}")
    assert header[0] != summary[0]
    assert results("mts_dialog") == [header, summary]


def test_mts_dialog_is_worded_in_several_ways():
    asked = {tuple(result[0]["content"].split("\n")[0] for result in results("mts_dialog", ID=str(number))) for number in range(40)}
    assert len(asked) == 9


def test_mts_dialog_accounts_for_both_candidates():
    assert results("mts_dialog", dialogue=" ") == [Dropped("empty dialogue")] * 2
    header, summary = results("mts_dialog", section_text="")
    assert header[1]["content"] == "GENHX"
    assert summary == Dropped("empty assistant turn")


def test_pubmedqa():
    asked = "Abstract: We gave it.\nIt helped.\n\nQuestion: Does it help?\nAnswer with yes, no or maybe."
    assert only("pubmedqa") == only("pubmedqa", final_decision=" Yes ") == turns(asked, "yes. It did.")
    assert only("pubmedqa", LONG_ANSWER=None) == turns(asked, "yes.")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"final_decision": "perhaps"}, "decision is not yes, no or maybe"), ({"final_decision": None}, "decision is not yes, no or maybe"),
    ({"QUESTION": " "}, "empty question"),
])
def test_pubmedqa_that_cannot_be_asked(changes, reason):
    assert only("pubmedqa", **changes) == Dropped(reason)


@pytest.mark.parametrize("value", [None, "one text", [1], [None], [["a"]], ["half \ud83d"]], ids=ascii)
def test_pubmedqa_contexts_are_texts(value):
    with pytest.raises(ColumnError) as told:
        results("pubmedqa", CONTEXTS=value)
    assert told.value.column == "CONTEXTS"


def test_ultrachat_keeps_the_turns_and_leaves_off_an_unanswered_one():
    whole = turns("Hi", "Hello", "How?", "So")
    assert only("ultrachat", messages=whole) == whole
    assert only("ultrachat", messages=[*whole, *turns("And?"), *turns("Well?")]) == whole
    led = [{"role": "system", "content": "Its own."}, *whole]
    assert results("ultrachat", SYSTEM, messages=led) == [led]


@pytest.mark.parametrize(("messages", "reason"), [
    ([], "turns do not alternate from user to assistant"),
    (turns("Hi"), "turns do not alternate from user to assistant"),
    ([{"role": "system", "content": "Its own."}], "turns do not alternate from user to assistant"),
    (turns("Hi", "Hello")[::-1], "turns do not alternate from user to assistant"),
    ([*turns("Hi"), *turns("Hi", "Hello")], "turns do not alternate from user to assistant"),
    ([*turns("Hi", "Hello"), *turns("Hi", "Hello")[1:]], "turns do not alternate from user to assistant"),
    ([{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}], "turns do not alternate from user to assistant"),
    (turns("", "Hello"), "empty user turn"),
    (turns("Hi", " "), "empty assistant turn"),
    ([{"role": "user", "content": None}, {"role": "assistant", "content": "Hello"}], "empty user turn"),
])
def test_ultrachat_that_is_no_conversation(messages, reason):
    assert only("ultrachat", messages=messages) == Dropped(reason)


@pytest.mark.parametrize("value", [
    None, "Hi", ["Hi"], [{"role": "user"}], [{"from": "human", "value": "Hi"}], [{"role": 1, "content": "Hi"}],
    [{"role": "user", "content": ["Hi"]}],
], ids=str)
def test_ultrachat_messages_are_turns(value):
    with pytest.raises(ColumnError):
        results("ultrachat", messages=value)


def test_aci_bench_asks_for_the_note_in_several_wordings():
    asked, written = only("aci_bench")
    assert asked["content"].endswith("\n\n[doctor] hi , martha .\n[patient] hi .")
    assert written["content"] == "CHIEF COMPLAINT\n\nAnnual exam."
    assert len({only("aci_bench", encounter_id=f"D2N{number}")[0]["content"].split("\n")[0] for number in range(40)}) == 4
    assert only("aci_bench", dialogue=" ") == Dropped("empty dialogue")
    assert only("aci_bench", note="") == Dropped("empty assistant turn")


def test_headqa_counts_from_one_and_drops_what_needs_an_image():
    listed = "\n".join(f"{letter}. They are {number}." for number, letter in enumerate("ABCDE", 1))
    assert only("headqa") == turns(f"The excitatory potentials:\n{listed}", "C. They are 3.")
    assert only("headqa", ra=0) == only("headqa", ra=6) == Dropped("option index is out of range")
    assert only("headqa", image={"bytes": "x"}) == Dropped("question needs an image")
    without = {key: value for key, value in ROWS["headqa"].items() if key != "image"}  # as in EleutherAI's copy
    assert list(find_converter("headqa", "sources.x").conversations(without, source("headqa", wordings="plain"))) == [only("headqa")]
    assert only("headqa", answers=[]) == Dropped("not 2 to 10 options")
    with pytest.raises(ColumnError):
        results("headqa", answers=["one", "two"])


@pytest.mark.parametrize(("family", "index"), [("medqa", "label"), ("mmlu", "answer")])
def test_exam_questions(family, index):
    expected = turns("Which is right?\nA. one\nB. two\nC. three\nD. four", "B. two")
    assert only(family) == expected
    assert only(family, **{index: 4}) == Dropped("option index is out of range")
    assert only(family, **{"medqa": {"ending2": ""}, "mmlu": {"choices": ["one", "two", " "]}}[family]) == Dropped("empty option")


def test_mmlu_keeps_the_recipes_subjects():
    paper = load_recipe("llama3-8b").sources["mmlu"]
    converter = find_converter("mmlu", "sources.mmlu")
    assert len(paper.sites) == 13
    (kept,), (left,) = (list(converter.conversations(ROWS["mmlu"] | {"subject": subject}, paper)) for subject in ("virology", "astronomy"))
    assert kept[-1]["content"] == "B. two"
    assert left == Dropped("subject is not among the recipe's")


def test_niv2_puts_the_definition_before_the_input():
    assert only("niv2") == turns("Name the drug.\n\nHe took aspirin.", "aspirin")
    assert only("niv2", inputs="") == Dropped("empty input")
    assert only("niv2", targets=None) == Dropped("empty assistant turn")


def test_tagged_texts_become_turns():
    assert only("opengpt") == turns("Is it high?", "Yes.", "Why?", "Salt.")
    assert only("medical_instruction") == turns("I cough.", "Since when?", "A week.", "See a doctor.")
    unanswered = "x\n[|Human|] I cough.\n[|AI|] Since when?\n[|Human|] A week.\n[|AI|] "
    assert only("medical_instruction", Conversation=unanswered) == turns("I cough.", "Since when?")


@pytest.mark.parametrize(("text", "reason"), [
    ("", "no turn in the text"), ("I cough.", "no turn in the text"), ("[|Human|] [|AI|] ", "no turn in the text"),
    ("[|AI|] Hello.", "turns do not alternate from user to assistant"), ("[|Human|] Hi.", "turns do not alternate from user to assistant"),
    ("[|Human|] Hi. [|AI|] [|Human|] Hi? [|AI|] Yes.", "empty assistant turn"),
])
def test_tagged_texts_that_are_no_conversation(text, reason):
    assert only("medical_instruction", Conversation=text) == Dropped(reason)


def test_pubhealth_answers_with_verdict_and_reason():
    asked, told = only("pubhealth")
    assert asked["content"].endswith("\n\nClaim: Water cures it.")
    assert told["content"] == "False. No trial found that."
    assert only("pubhealth", label=1) == only("pubhealth", label=" False ") == only("pubhealth")
    assert only("pubhealth", label=3)[1]["content"].startswith("Mixture. ")
    for label in (-1, 4, "", None, "snopes"):
        assert only("pubhealth", label=label) == Dropped("verdict is missing or none of the four")
    assert only("pubhealth", claim=" ") == Dropped("empty claim")
    assert only("pubhealth", explanation=None) == Dropped("empty explanation")


def test_sciq_puts_the_right_answer_at_a_place_of_its_own():
    asked, told = only("sciq")
    letter = told["content"][0]
    assert f"\n{letter}. red cells" in asked["content"]
    assert told["content"] == f"{letter}. red cells\n\nRed cells hold haemoglobin."
    assert only("sciq", support=None)[1]["content"] == f"{letter}. red cells"
    assert {only("sciq", question=f"What {number}?")[1]["content"][0] for number in range(40)} == set("ABCD")
    assert only("sciq", distractor1="") == Dropped("empty option")


def test_stackexchange_takes_the_best_answer_as_plain_text():
    assert only("stackexchange") == turns("Why do we yawn?", "To cool.")
    first, second = ROWS["stackexchange"]["answers"]
    assert only("stackexchange", answers=[first | {"pm_score": 1}, second])[1]["content"] == "No idea."
    equal = [first | {"pm_score": 1, "selected": True}, second]
    assert only("stackexchange", answers=equal) == only("stackexchange", answers=equal[::-1]) == turns("Why do we yawn?", "To cool.")
    as_text = [{key: str(value) for key, value in answer.items()} for answer in equal]  # "False" is not true
    assert only("stackexchange", answers=[as_text[0] | {"selected": "False"}, as_text[1]])[1]["content"] == "No idea."
    assert only("stackexchange", answers=[]) == Dropped("no answer")
    with pytest.raises(ColumnError):
        results("stackexchange", answers=[{"text": "x"}])


def test_stackexchange_keeps_the_recipes_sites():
    paper = load_recipe("llama3-8b").sources["stackexchange"]
    converter = find_converter("stackexchange", "sources.stackexchange")
    [kept] = converter.conversations(ROWS["stackexchange"], paper)
    assert [turn["role"] for turn in kept] == ["system", "user", "assistant"]
    for link in ("https://cooking.stackexchange.com/q/1", "https://stackoverflow.com/q/1", "biology"):
        assert list(converter.conversations(ROWS["stackexchange"] | {"metadata": [link]}, paper)) == [
            Dropped("site is not among the recipe's")]


@pytest.mark.parametrize(("html", "expected"), [
    ("<p>One\n line &amp; more</p>\n\n<p>Two</p>", "One line & more\n\nTwo"),
    ("<ul>\n<li>a</li>\n<li>b <em>c</em> d</li>\n</ul>", "- a\n- b c d"),
    ("<pre><code>x = 1\n  y = 2\n</code></pre>", "x = 1\n  y = 2"), ("a<br>b<br/>c", "a\nb\nc"), ("2 &lt; 3 <b>unclosed", "2 < 3 unclosed"),
    ("", ""), ("no tags", "no tags"), ("<p>a<a href='x'>link</a>, b</p>", "alink, b"),
])
def test_html_becomes_plain_text(html, expected):
    assert plain(html) == expected


def labels(*parts: str) -> list[dict[str, str]]:
    """Rows of OpenOrca for SlimOrca's row above."""
    return [{"id": f"{part}.{number}", "system_prompt": "Be brief. ", "question": "Why?"} for number, part in enumerate(parts)]


@pytest.mark.parametrize(("rows", "reason"), [
    (labels("cot"), None), (labels("cot", "cot"), None), (labels("t0"), "part is not the recipe's"),
    (labels("cot", "flan", "cot"), "labels disagree on its part"), ([], "question is not among the labels"),
    ([labels("cot")[0] | {"system_prompt": "Be long."}], "question is not among the labels"),
])
def test_slimorca_takes_a_rows_part_from_openorca(rows, reason):
    paper = load_recipe("llama3-8b").sources["slimorca-cot"]
    row = {"conversations": [{"from": "system", "value": "Be brief.", "weight": None}, *ROWS["slimorca"]["conversations"]]}
    [result] = find_converter("slimorca", "sources.x").labelled(rows).conversations(row, paper)
    system = {"role": "system", "content": "Be brief."}
    assert result == (Dropped(reason) if reason else [system, *turns("Why?", "So.")])


def test_slimorca_without_labels_gives_no_part():
    paper = load_recipe("llama3-8b").sources["slimorca-cot"]
    [result] = find_converter("slimorca", "sources.x").conversations(ROWS["slimorca"], paper)
    assert result == Dropped("part is not known without labels")


def test_ultramedical_keeps_the_turns():
    assert only("ultramedical") == turns("Which is right?", "B, because it is.")
    odd = [{"from": "tool", "value": "x"}, {"from": "gpt", "value": "y"}]
    assert only("ultramedical", conversations=odd) == Dropped("a turn from tool")


# --- conversations --------------------------------------------------------------------------------


def test_a_conversation_is_stripped():
    assert conversation(" a\n", "\tb ") == turns("a", "b")
    assert conversation("a", "b", "c") == [{"role": "system", "content": "c"}, *turns("a", "b")]
    assert conversation("a", "b", "") == turns("a", "b")
    assert checked([]) == Dropped("turns do not alternate from user to assistant")


def test_a_rows_identity_is_what_it_says():
    several = [turns("a", "b"), turns("a", "c"), turns("ab", ""), [{"role": "system", "content": "s"}, *turns("a", "b")]]
    assert len(set(map(row_digest, several))) == 4
    assert row_digest(turns("a", "b")) == row_digest([dict(reversed(turn.items()), more=1) for turn in turns("a", "b")])


# --- several wordings -----------------------------------------------------------------------------

EXAMS = {"headqa": "qtext", "medmcqa": "question", "medqa": "sent1", "mmlu": "question", "sciq": "question"}
WORDED = {**EXAMS, "aci_bench": "dialogue", "mts_dialog": "dialogue", "pubhealth": "claim", "pubmedqa": "QUESTION"}


def worded(family: str, question: str, wordings: str = "several", **changes: Any) -> list[Any]:
    row = ROWS[family] | {WORDED[family]: question} | changes
    return list(find_converter(family, "sources.x").conversations(row, source(family, wordings=wordings)))


def questions(count: int) -> list[str]:
    return [f"Which of these is number {number}?" for number in range(count)]


@pytest.mark.parametrize("family", WORDED)
def test_a_source_without_an_instruction_of_its_own_is_put_in_several_ways(family):
    # What is left without the row's own text and without the options, which tells the wordings apart.
    ways = Counter()
    for question in questions(120):
        asked = worded(family, question)[0][0]["content"].replace(question, "")
        ways[re.sub(r"^.*?\b(one|They are|platelets|plasma|lymph|red cells)\b.*$", "", asked, flags=re.MULTILINE)] += 1
    assert len(ways) >= 3
    assert min(ways.values()) > 120 / len(ways) / 4  # each of them really is used
    assert worded(family, "Why?") == worded(family, "Why?")


@pytest.mark.parametrize("family", EXAMS)
def test_an_exam_question_is_worded_by_what_it_says_and_the_benchmarks_form_is_among_the_wordings(family):
    whole = [worded(family, question)[0] for question in questions(120)]
    plain = [worded(family, question, "plain")[0] for question in questions(120)]
    same = sum(several == one for several, one in zip(whole, plain, strict=True))
    assert 120 / len(WORDINGS) / 3 < same < 120 / len(WORDINGS) * 3
    for several, one in zip(whole, plain, strict=True):
        assert several[1] == one[1]  # the answer has one form
        assert several[0]["content"].split("\n")[0] == one[0]["content"].split("\n")[0]
        assert one[0]["content"] == question_with_options(one[0]["content"].split("\n")[0], [
            line[3:] for line in one[0]["content"].split("\n")[1:]])


def test_reasons_are_asked_for_where_there_are_some():
    seen = set()
    for question in questions(60):
        without, reasoned = (worded("medmcqa", question, exp=exp)[0][0]["content"] for exp in ("", "Two is even."))
        put = {f"{question_with_options(question, ['one', 'two', 'three', 'four'], wording)}\n\n{wording.ask}".strip(): wording
               for wording in WORDINGS}
        wording = put[without]
        assert reasoned == without.removesuffix(wording.ask) + wording.ask_why
        seen.add(wording)
    assert seen == set(WORDINGS)


@pytest.mark.parametrize("question", [
    "Which drug treats it?", "Why?", "Which of the following is true?",
    "A man of 60 with fever, a cough of three weeks and night sweats comes to the clinic; which test comes next?",
])
@pytest.mark.parametrize("family", ["medmcqa", "medqa", "mmlu"])
def test_decontamination_finds_a_question_however_it_is_worded(family, question):
    options = ["one", "two", "three", "four"]
    item = {"id": "x", "benchmark": "exam", "question": question, "context": "", "options": options, "right": 1, "lettered": True}
    overlap = overlap_with([item], Mix())
    for wording in WORDINGS:
        asked = f"{question_with_options(question, options, wording)}\n\n{wording.ask}"
        assert overlap.search([[asked, "C. three"]])[0].way == "turn", wording
    for result in (worded(family, question), worded(family, question, **({"exp": "Long."} if family == "medmcqa" else {}))):
        assert overlap.search([[turn["content"] for turn in result[0]]])[0] is not None


@pytest.mark.parametrize("wording", pubmedqa.WORDINGS)
def test_decontamination_finds_an_abstract_however_it_is_worded(wording):
    context = "We gave the drug to 120 patients and a placebo to 118 others, and followed all of them for a year."
    item = {"id": "x", "benchmark": "pubmedqa", "question": "Does it help in every case of asthma or in none?", "context": context,
            "options": ["yes", "no", "maybe"], "right": 0, "lettered": False}
    for row in ({"QUESTION": "Another question?", "CONTEXTS": [context]}, {"QUESTION": item["question"], "CONTEXTS": ["Another."]}):
        assert overlap_with([item], Mix()).search([[pubmedqa.question_text(row, wording), "yes."]])[0] is not None
