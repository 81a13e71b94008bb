"""Log-likelihoods by question equal lm-eval's own, answer by answer; and what makes them so is needed."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from med42.data.chat import BEGIN, END, PAD
from med42.evaluation import shared_prefix
from med42.evaluation.questions import Answered, Question, batches_of, questions_of
from med42.evaluation.shared_prefix import SharedPrefixLM
from med42.training.prepare_base import train_tokenizer

TOLERANCE = 5e-4  # of a sum of log-probabilities in fp32; lm-eval at two batch sizes differs from itself by 5e-5
WORDS = ["fever", "cough", "aspirin", "insulin", "kidney", "liver", "acute", "chronic", "therapy", "of", "the", "patient", "with", "pain",
         "and", "which", "is", "first"]


@pytest.fixture(scope="module")
def loaded() -> SimpleNamespace:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(100)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(600, texts), bos_token=BEGIN, eos_token=END, pad_token=PAD)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
        max_position_embeddings=192))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(12 if "q_proj" in name or "k_proj" in name else 4 if "proj" in name else 1)  # so that attention decides
    return SimpleNamespace(model=model.eval(), tokenizer=tokenizer)


def questions(count: int, seed: int = 1) -> list[tuple[str, list[str]]]:
    """Prompts as the chat template ends them, with 2 to 10 answers, some of one token, some that begin alike."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        prompt = f"<|start_header_id|>user {' '.join(draw.choices(WORDS, k=draw.randint(3, 60)))}<|end_header_id|>\n\n"
        answers = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(draw.randint(2, 10))]
        lettered = [f"{letter}. {answer}" for letter, answer in zip("ABCDEFGHIJ", answers, strict=False)]
        made.append((prompt, [*lettered, *"ABCDEFGHIJ"[: len(answers)], *answers, f"{answers[0]} and pain"]))
    return made


def asked(questions: list[tuple[str, list[str]]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=(prompt, answer)) for prompt, answers in questions for answer in answers]


def ours(loaded: SimpleNamespace, budget: int = 512, **kwargs) -> SharedPrefixLM:
    return SharedPrefixLM(loaded.model, loaded.tokenizer, budget, **kwargs)


def theirs(loaded: SimpleNamespace, batch: int = 4) -> HFLM:
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch, device="cpu")


def furthest(one: list[tuple[float, bool]], other: list[tuple[float, bool]]) -> float:
    return max(abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True))


# --- equality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_every_answer_is_scored_as_lm_eval_scores_it(loaded, budget):
    requests = asked(questions(24))
    told, expected = ours(loaded, budget).loglikelihood(requests), theirs(loaded).loglikelihood(requests)
    assert furthest(told, expected) < TOLERANCE
    assert min(value for value, _ in expected) < -20  # the numbers are no small ones
    assert [greedy for _, greedy in told] == [greedy for _, greedy in expected]


def test_an_answer_that_greedy_decoding_says_is_told(loaded):
    prompt = "<|start_header_id|>user which is first<|end_header_id|>"
    lm, answer = theirs(loaded), ""
    for _ in range(4):
        ids = torch.tensor([lm.tok_encode(prompt + answer)])
        answer += loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax())
    requests = asked([(prompt, [answer, "A. pain"])])
    (_, said), (_, not_said) = ours(loaded).loglikelihood(requests)
    expected = [greedy for _, greedy in lm.loglikelihood(requests)]
    assert [said, not_said] == expected


def test_a_question_too_long_for_the_model_is_cut_as_lm_eval_cuts_it_and_counted(loaded):
    requests = asked([*questions(4), ("<|end_header_id|>" + " ".join(WORDS * 14), [" pain", " acute pain of the liver"])])
    lm = ours(loaded)
    assert furthest(lm.loglikelihood(requests), theirs(loaded).loglikelihood(requests)) < TOLERANCE
    assert lm.cut == 1


def test_rolling_windows_are_scored_as_lm_eval_scores_them(loaded):
    requests = [SimpleNamespace(args=(" ".join(WORDS * 30),)), SimpleNamespace(args=("fever and pain",))]
    told, expected = ours(loaded).loglikelihood_rolling(requests, True), theirs(loaded, 1).loglikelihood_rolling(requests, True)
    assert max(abs(a - b) for a, b in zip(told, expected, strict=True)) < 2e-3  # sums of 500 tokens


def test_the_order_of_requests_changes_no_bit(loaded):
    requests = asked(questions(12))
    told = ours(loaded).loglikelihood(requests)
    turned = ours(loaded).loglikelihood(requests[::-1])[::-1]
    assert turned == told


# --- negative controls ----------------------------------------------------------------------------


def without(monkeypatch, change) -> None:
    """Let rows be laid out, or masked, otherwise."""
    monkeypatch.setattr(shared_prefix, "_who_sees_whom", change(shared_prefix._who_sees_whom))


def test_answers_that_see_each_other_are_noticed(loaded, monkeypatch):
    def causal(_):
        return lambda row, width: torch.ones(width, width).tril_().bool()

    requests = asked(questions(12))
    expected = theirs(loaded).loglikelihood(requests)
    without(monkeypatch, causal)
    assert furthest(ours(loaded, 1).loglikelihood(requests), expected) > 1000 * TOLERANCE


def test_positions_that_go_on_from_answer_to_answer_are_noticed(loaded, monkeypatch):
    right = Question.row.func

    def running(question):
        row = right(question)
        return shared_prefix.Row(row.tokens, list(range(len(row.tokens))), row.starts, row.common, row.prompt)

    requests = asked(questions(12))
    expected = theirs(loaded).loglikelihood(requests)
    monkeypatch.setattr(Question, "row", property(running))
    assert furthest(ours(loaded).loglikelihood(requests), expected) > 1000 * TOLERANCE


# --- the boundary between prompt and answer -------------------------------------------------------


def test_white_space_at_the_end_of_a_prompt_counts_to_the_answer(loaded):
    lm = ours(loaded)
    prompt, answer = lm._encode_pair("<|end_header_id|>\n\n", "pain")
    assert (prompt, answer) == theirs(loaded)._encode_pair("<|end_header_id|>\n\n", "pain")
    assert lm.tok_decode(answer) == "\n\npain"


def test_a_tokenizer_that_merges_prompt_and_answer_is_refused(loaded, refusal):
    told = refusal(lambda: ours(loaded).loglikelihood(asked([("which is the fev", ["er", "pain"])])))
    assert "tokenizer: found a prompt that ends in 'fev'" in told or "tokenizer: found a prompt that ends in" in told
    assert "choose a chat template that ends with a control token" in told
    whole = theirs(loaded)
    split = whole._encode_pair("which is the fev", "er")
    assert split[0] + split[1] != whole.tok_encode("which is the fever")  # what lm-eval would have scored instead


def test_an_empty_answer_is_refused(loaded, refusal):
    assert "tokenizer" in refusal(lambda: ours(loaded).loglikelihood(asked([("<|end_header_id|>", ["", "pain"])])))


def test_attention_that_takes_no_mask_is_refused(loaded, refusal):
    model = LlamaForCausalLM._from_config(copy.deepcopy(loaded.model.config), attn_implementation="eager")
    assert "attention by eager" in refusal(lambda: SharedPrefixLM(model, loaded.tokenizer, 512))


# --- rows and batches -----------------------------------------------------------------------------


def test_a_row_holds_the_prompt_once(loaded):
    (question,) = questions_of([(None, [1, 2, 3], [4, 5, 6]), (None, [1, 2, 3], [4, 7]), (None, [1, 2, 3], [8, 9, 9, 9])])
    assert question.row.tokens == [1, 2, 3, 4, 5, 4, 8, 9, 9]
    assert question.row.positions == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    one, = questions_of([(None, [1, 2, 3], [4, 5]), (None, [1, 2, 3], [4, 6, 7])])
    assert (one.row.tokens, one.row.common) == ([1, 2, 3, 4, 6], 4)  # the 4 is common too
    letters, = questions_of([(None, [1, 2, 3], [token]) for token in (4, 5, 6)])
    assert letters.row.tokens == [1, 2, 3]


def test_batches_hold_no_more_than_the_budget_and_the_longest_come_first(loaded):
    lm = ours(loaded)
    requests = [(None, *lm._encode_pair(prompt, answer)) for prompt, answers in questions(40) for answer in answers]
    found = questions_of(requests)
    batches = batches_of(found, 700)
    assert [question for batch in batches for question in batch] == found
    sizes = [[len(question.row.tokens) for question in batch] for batch in batches]
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 700 for batch in sizes)
    assert sorted((size for batch in sizes for size in batch), reverse=True) == [size for batch in sizes for size in batch]
    assert len(batches) < 40
    assert [len(batch) for batch in batches_of(found, 1)] == [1] * 40


# --- going on -------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def test_what_was_scored_is_not_scored_again_and_the_bits_are_the_same(loaded, tmp_path, monkeypatch):
    requests = asked(questions(30))
    whole, path = ours(loaded).loglikelihood(requests), tmp_path / "answered.jsonl"
    read = SharedPrefixLM.score_batch
    passes: list[int] = []

    def dies_after(limit: int):
        def score(self, batch):
            if len(passes) == limit:
                raise KilledError
            passes.append(len(batch))
            return read(self, batch)
        return score

    monkeypatch.setattr(SharedPrefixLM, "score_batch", dies_after(3))
    with pytest.raises(KilledError):
        ours(loaded, answered=Answered(path)).loglikelihood(requests)
    assert len(Answered(path)) == 3
    # The machine died while the fourth was written.
    with path.open("a") as handle:
        handle.write(json.dumps({"batch": "x", "answers": [[[1.0, True]]]})[:20])
    passes.clear()
    monkeypatch.setattr(SharedPrefixLM, "score_batch", dies_after(-1))
    told: list[tuple[int, int]] = []
    again = ours(loaded, answered=Answered(path), tell=lambda *counts: told.append(counts)).loglikelihood(requests)
    assert again == whole
    assert len(Answered(path)) == len(told) == len(passes) + 3
    assert told[-1] == (30, 30)


def test_another_question_is_not_taken_for_one_that_was_scored(loaded, tmp_path):
    path = tmp_path / "answered.jsonl"
    ours(loaded, answered=Answered(path)).loglikelihood(asked(questions(6)))
    others = asked(questions(6, seed=2))
    assert ours(loaded, answered=Answered(path)).loglikelihood(others) == ours(loaded).loglikelihood(others)
