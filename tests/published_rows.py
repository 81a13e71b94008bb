"""One row of every source family, in exactly its publisher's columns and types, made up for the tests."""

from typing import Any

from med42.recipe.schema import Source

ROWS: dict[str, dict[str, Any]] = {
    "aci_bench": {"dataset": "virtassist", "encounter_id": "D2N001", "dialogue": "[doctor] hi , martha .\n[patient] hi .",
                  "note": "CHIEF COMPLAINT\n\nAnnual exam."},
    "headqa": {"name": "Cuaderno_2013_1_B", "year": "2013", "category": "biology", "qid": 1, "qtext": "The excitatory potentials:", "ra": 3,
               "image": None, "answers": [{"aid": number, "atext": f"They are {number}."} for number in range(1, 6)]},
    "medical_instruction": {"Conversation": "The conversation between human and AI assistant.\n[|Human|] I cough.\n[|AI|] Since when?\n"
                                            "[|Human|] A week.\n[|AI|] See a doctor."},
    "medqa": {"id": "train-1", "sent1": "Which is right?", "sent2": "", "ending0": "one", "ending1": " two ", "ending2": "three",
              "ending3": "four", "label": 1},
    "mmlu": {"question": "Which is right?", "subject": "anatomy", "choices": ["one", "two", "three", "four"], "answer": 1},
    "niv2": {"task_name": "task1_x", "id": "task1-0", "definition": "Name the drug.", "inputs": "He took aspirin.", "targets": "aspirin"},
    "opengpt": {"raw_data_id": "0",
                "text": "<|user|> Is it high? <|eos|> <|ai|> Yes. <|eos|> <|user|> Why? <|eos|> <|ai|> Salt. <|eos|> <|eod|>"},
    "pubhealth": {"claim_id": "1", "claim": "Water cures it.", "explanation": "No trial found that.", "label": "false",
                  "main_text": "Long."},
    "sciq": {"question": "What carries oxygen?", "distractor1": "platelets", "distractor2": "plasma", "distractor3": "lymph",
             "correct_answer": "red cells", "support": "Red cells hold haemoglobin."},
    "stackexchange": {"qid": 1, "question": "<p>Why do we <b>yawn</b>?</p>", "date": "2015/01/01", "metadata": [
        "https://biology.stackexchange.com/questions/1", "https://biology.stackexchange.com", "https://biology.stackexchange.com/users/2/"],
        "answers": [{"answer_id": 3, "author": "a", "author_id": 4, "pm_score": 2, "selected": False, "text": "<p>To cool.</p>"},
                    {"answer_id": 5, "author": "b", "author_id": 6, "pm_score": 1, "selected": True, "text": "No idea."}]},
    "slimorca": {"conversations": [{"from": "human", "value": "Why?", "weight": 0.0}, {"from": "gpt", "value": "So.", "weight": 1.0}]},
    "ultramedical": {"id": "x", "type": "Exam", "answer": "B", "score": "4.5", "conversations": [
        {"from": "human", "value": "Which is right?"}, {"from": "gpt", "value": "B, because it is."}]},
    "meadow": {"instruction": " Answer truthfully ", "input": "What is asthma?", "output": " A disease. "},
    "medmcqa": {"question": "Which is right?", "opa": "one", "opb": " two ", "opc": "three", "opd": "four", "cop": 1,
                "exp": "Two is even.", "subject_name": "Anatomy", "topic_name": None, "choice_type": "single", "id": "x"},
    "medquad": {"question": "What is (are)  Asthma ?", "answer": "Key Points\n      - A   disease.\t\tOf  airways. \n \n End"},
    "mts_dialog": {"ID": "0", "section_header": "GENHX", "section_text": "A cough.", "dialogue": "Doctor: Hello. \nPatient: I cough."},
    "pubmedqa": {"QUESTION": "Does it help?", "CONTEXTS": ["We gave it. ", "It helped."], "final_decision": "yes",
                 "LONG_ANSWER": "It did."},
    "ultrachat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
}
UNREAD = {  # columns that the publisher has and the converter leaves alone
    "aci_bench": {"dataset"}, "mmlu": {"subject"}, "headqa": {"name", "year", "category", "qid", "image"},
    "medmcqa": {"subject_name", "topic_name", "choice_type", "id"}, "medqa": {"id", "sent2"}, "niv2": {"task_name", "id"},
    "opengpt": {"raw_data_id"}, "pubhealth": {"claim_id", "main_text"}, "stackexchange": {"qid", "date"},
    "ultramedical": {"id", "type", "answer", "score"},
}


def source(family: str, system: str | None = None, **settings: Any) -> Source:
    """A recipe's source of a family."""
    origin = {"kind": "file", "files": ["rows.jsonl"]}
    return Source(domain="medical", family=family, origin=origin, license="MIT", system=system, **settings)
