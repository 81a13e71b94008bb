"""The PHI gate: policies, the account and its parts, what the report shows, and what it measures of itself."""

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from med42.data.conversation import Conversation, Dropped, conversation, row_digest
from med42.data.phi import (
    CATEGORIES,
    Account,
    Detector,
    PhiGate,
    merged_reports,
    phi_blocks,
    phi_report,
    recall,
    stop_on,
)
from med42.data.phi.measure import measured
from med42.data.phi.plants import plant
from med42.data.readers import read_rows
from med42.errors import Med42Error
from med42.recipe import load_recipe
from med42.recipe.schema import Phi

SEED = 7


def turns(user: str, assistant: str = "I see.") -> Conversation:
    made = conversation(user, assistant)
    assert not isinstance(made, Dropped)
    return made


# Every third row holds an identifier of some category, named after its place.
ROWS = [
    turns(f"Row {place}: what helps a sore throat?", f"Rest, part {place}." if place % 3 else plant(CATEGORIES[place % 18], place).text)
    for place in range(300)
]


def judged(rows: list[Conversation], settings: Phi | None = None, policy: str | None = None, blocks: int = 1) -> tuple[list, Account]:
    settings = settings or Phi()
    gates = [PhiGate(settings, policy, SEED) for _ in range(blocks)]
    results, account = [], Account()
    for place, row in enumerate(rows):
        results.append(gates[place % blocks].judge(row_digest(row), row))
    for gate in reversed(gates):
        account.merge(pickle.loads(pickle.dumps(gate.take())), settings.planted)
    return results, account


def held(row: Conversation) -> bool:
    return bool(Detector().examine(row))


def test_report_changes_nothing_and_counts_everything():
    results, account = judged(ROWS)
    assert results == ROWS
    assert account.rows == account.examined == 300
    assert account.flagged == account.acted == sum(map(held, ROWS)) > 70
    assert account.found.total() >= account.rows_with.total() >= account.flagged


def test_mask_leaves_no_finding_and_other_rows_as_they_were():
    results, _ = judged(ROWS, policy="mask")
    assert not any(held(row) for row in results)
    for row, result in zip(ROWS, results, strict=True):
        assert (result == row) is not held(row)
        assert [turn["role"] for turn in result] == [turn["role"] for turn in row]


def test_drop_drops_the_rows_with_findings_and_tells_the_category():
    results, _ = judged(ROWS, policy="drop")
    for row, result in zip(ROWS, results, strict=True):
        assert isinstance(result, Dropped) is held(row)
        if isinstance(result, Dropped):
            assert re.fullmatch(r"identifiers: [a-z_]+(, [a-z_]+)*", result.reason)


def test_stop_stops_and_names_no_identifier():
    results, account = judged([turns("MRN 12345678 and jane@example.com"), turns("Nothing here")], policy="stop")
    assert not any(isinstance(result, Dropped) for result in results)
    with pytest.raises(Med42Error, match=r"sources\.notes\.phi: found identifiers in 1 of 2 rows \(1 email, 1 record\)") as told:
        stop_on(account, Phi(), "stop", "sources.notes")
    assert "1234" not in str(told.value) and "jane" not in str(told.value)
    for policy in ("report", "mask", "drop"):
        stop_on(account, Phi(), policy, "sources.notes")
    stop_on(judged([turns("Nothing here")], policy="stop")[1], Phi(), "stop", "sources.notes")


def test_what_is_spared_is_counted_but_left():
    rows = [turns("See www.example.com about MRN 12345678"), turns("See www.example.com")]
    settings = Phi(policy="mask", spared=["url"])
    results, account = judged(rows, settings)
    assert results[0][0]["content"] == "See www.example.com about MRN [RECORD]" and results[1] == rows[1]
    assert account.found == {"url": 2, "record": 1} and (account.flagged, account.acted) == (2, 1)
    stop_on(judged(rows[1:], settings, "stop")[1], settings, "stop", "sources.pages")


def test_a_sample_is_chosen_by_digest():
    settings = Phi(sample=0.3)
    _, account = judged(ROWS, settings)
    assert account.rows == 300 and 55 <= account.examined <= 125
    assert account == judged(ROWS, settings)[1] and judged(ROWS[::-1], settings)[1].examined == account.examined
    assert judged(ROWS, Phi(sample=0.0))[1].examined == 0


def test_the_report_does_not_depend_on_how_rows_were_shared_out():
    settings = Phi(planted=8)
    whole = phi_report(judged(ROWS, settings)[1], settings, None, SEED)
    for rows, blocks in ((ROWS, 5), (ROWS[::-1], 3)):
        assert json.dumps(phi_report(judged(rows, settings, blocks=blocks)[1], settings, None, SEED)) == json.dumps(whole)
    parts = [phi_report(judged(ROWS[index::4], settings)[1], settings, None, SEED) for index in range(4)]
    assert json.dumps(merged_reports(parts)) == json.dumps(whole) == json.dumps(merged_reports(reversed(parts)))


def test_neither_report_nor_page_holds_an_identifier():
    secrets = []
    rows = []
    for place in range(540):
        planted = plant(CATEGORIES[place % 18], "secret", place)
        identifier = planted.text[planted.start : planted.end]
        rows.append(turns(f"It began so. {planted.text} And {plant('name', 'beside', place).text} Then it ended."))
        secrets.append(identifier)
    settings = Phi(planted=5)
    report = phi_report(judged(rows, settings)[1], settings, None, SEED)
    page = "".join(phi_blocks({"notes": report}))
    assert sum(len(account["evidence"]) for account in report["categories"].values()) > 60
    shown = json.dumps(report["categories"], ensure_ascii=False) + page
    # Row digests are hexadecimal and may hold any short run of digits.
    shown = re.sub(r'"(?:row|order)": "[0-9a-f]{64}"', "", shown)
    shown = re.sub(r"<td class=\"\">[0-9a-f]{12}</td>", "", shown)
    for secret in secrets:
        if (any(map(str.isdigit, secret)) and len(secret) > 3) or any(map(str.isupper, secret)):
            assert secret not in shown
    surroundings = [one["around"] for account in report["categories"].values() for one in account["evidence"]]
    assert not any(Detector().examine_text(around) for around in surroundings)


def test_planting_measures_what_is_missed(shared_data):
    settings = Phi(planted=40)
    account = judged(list(real_rows("pubmedqa", shared_data)), settings)[1]
    report = phi_report(account, settings, None, SEED)
    totals = recall([report])
    assert set(totals) == set(CATEGORIES) and all(total["planted"] == 40 for total in totals.values())
    assert all(total["found"] >= 22 for total in totals.values()), totals
    assert sum(total["found"] for total in totals.values()) < 18 * 40, "nothing was missed: the plants are too easy"
    # It notices a detector that is blind.
    blind = PhiGate(settings, None, SEED)
    blind.detector = Detector(least_score=0.99)
    assert all(results == [0, 0] for key, host in account.hosts[:5] for results in measured(blind.detector, host, SEED, key).values())


def test_no_rows_to_plant_into_and_none_wanted():
    report = phi_report(judged(ROWS, Phi(planted=0))[1], Phi(planted=0), None, SEED)
    assert report["planted"] == {} and all(total["planted"] == 0 for total in recall([report]).values())
    empty = phi_report(Account(), Phi(), None, SEED)
    assert "0 of 0 rows" in "".join(phi_blocks({"none": empty}))


def test_rows_planted_into_hold_no_identifier_themselves():
    _, account = judged(ROWS, Phi(planted=60))
    assert len(account.hosts) == 60 and not any(held(host) for _, host in account.hosts)


def test_a_recipe_says_what_happens_to_which_source():
    recipe = load_recipe("tiny", ["phi.policy=report"])
    assert (recipe.phi.policy, recipe.phi.detector, recipe.phi.sample) == ("report", "patterns", 1.0)
    assert all(source.phi is None for source in recipe.sources.values())
    for wrong in ({"policy": "shout"}, {"model": "some_model"}, {"spared": ["names"]}, {"sample": 1.5}, {"polcy": "drop"}):
        with pytest.raises(ValidationError):
            Phi(**wrong)
    with pytest.raises(Med42Error, match=r"phi\.sample must be 1"):
        load_recipe("tiny", ["phi.policy=mask", "phi.sample=0.5"])
    source = next(iter(recipe.sources))
    with pytest.raises(Med42Error, match=r"phi\.sample must be 1"):
        load_recipe("tiny", [f"sources.{source}.phi=drop", "phi.sample=0.5"])


# --- real rows ----------------------------------------------------------------------------------

# Rows in 1,000 with a finding, at most; MedQuAD's are web pages with their addresses, MTS-Dialog's clinic visits with dates and names.
REAL = {"medquad": 40, "meadow": 20, "mts_dialog": 140, "pubmedqa": 160}


def real_rows(name: str, shared_data: Path) -> Iterator[Conversation]:
    files = {"medquad": "medquad.jsonl.gz", "meadow": "medical_meadow_small.jsonl.gz", "mts_dialog": "mts_dialog.train.csv",
             "pubmedqa": "pubmedqa_labeled.train.jsonl.gz"}
    for place, (_, row) in enumerate(read_rows(shared_data / files[name], files[name])):
        if name == "medquad" and place % 5 == 0:
            yield turns(row["question"], row["answer"])
        elif name == "meadow" and row["output"].strip():
            yield turns(f"{row['instruction']}\n{row['input']}", row["output"])
        elif name == "mts_dialog":
            yield turns(row["dialogue"], row["section_text"])
        elif name == "pubmedqa":
            yield turns(row["QUESTION"] + "\n" + "\n".join(row["CONTEXTS"]), row["LONG_ANSWER"])


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name, shared_data):
    settings = Phi(planted=10)
    results, account = judged(list(real_rows(name, shared_data)), settings, "mask")
    assert 0 < account.flagged <= REAL[name] * account.examined / 1000
    # No set holds social security, record, plan, account, licence or vehicle numbers.
    assert not set(account.found) & {"ssn", "record", "health_plan", "account", "licence", "vehicle", "ip", "biometric"}
    assert not any(isinstance(result, Dropped) or held(result) for result in results)
    page = "".join(phi_blocks({name: phi_report(account, settings, "mask", SEED)}))
    assert "full-face photographs" in page and "10" in page


def test_accounts_that_are_taken_block_by_block_give_the_same_report():
    settings = Phi(planted=8)
    gate, account = PhiGate(settings, None, SEED), Account()
    for start in range(0, 300, 50):
        for row in ROWS[start : start + 50]:
            gate.judge(row_digest(row), row)
        account.merge(gate.take(), settings.planted)
    assert gate.take() == Account()
    assert json.dumps(phi_report(account, settings, None, SEED)) == json.dumps(phi_report(judged(ROWS, settings)[1], settings, None, SEED))
