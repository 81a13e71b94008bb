"""A pair in a packed row is the pair: loss, margins, log-probabilities and gradients are those of TRL's DPOTrainer."""

import json
import math
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig

from med42.data.chat import IGNORED
from med42.recipe import load_recipe
from med42.training import preference_trainer, shared_prompt
from med42.training.preference_trainer import PreparedDPOTrainer, SharedPromptTrainer, plain_attention
from med42.training.shared_prompt import (
    BOTH,
    CHOSEN,
    REJECTED,
    SharedPromptCollator,
    block_mask,
    pack,
    places_of,
    select,
    share_out,
    slots,
    visible,
)
from med42.training.train_dpo import train_dpo

# Prompt, chosen and rejected tokens: a prompt of one token, answers of one, equal lengths, one side much longer.
SIZES = [(7, 5, 9), (1, 3, 2), (12, 1, 1), (4, 6, 6), (3, 1, 15), (20, 14, 1)]
LOSSES = [
    {"loss_type": ["sigmoid"]}, {"loss_type": ["sigmoid_norm"]}, {"loss_type": ["ipo"]}, {"loss_type": ["robust"], "label_smoothing": 0.1},
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
]
RELATIVE_GRADIENT = 1e-4


def pairs_of(sizes, vocabulary=64):
    generator = torch.Generator().manual_seed(1)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{name: torch.randint(3, vocabulary, (size,), generator=generator).tolist() for name, size in zip(names, pair, strict=True)}
            for pair in sizes]


def model_of(tied):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                         intermediate_size=64, max_position_embeddings=64, tie_word_embeddings=tied, pad_token_id=0))
    with torch.no_grad():  # make attention matter: with small weights a leak would hide in rounding
        for name, weight in model.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "v_proj", "o_proj")):
                weight.mul_(15)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models

    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"w{number}": number for number in range(3, 64)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), pad_token="<pad>", eos_token="<eos>")


def trainer_of(ours, tied, tokenizer, folder, pairs, **settings):
    """A trainer whose reference is taken from the same model before it was moved away from it."""
    arguments = DPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, beta=0.1, report_to="none", precompute_ref_log_probs=True,
                          max_length=None, per_device_train_batch_size=len(pairs), activation_checkpointing=False,
                          **{"loss_type": ["sigmoid"], **settings})
    rows = datasets.Dataset.from_list(pairs)
    rows = datasets.Dataset.from_parquet(_written(rows, folder), cache_dir=str(folder))
    given = {"model": model_of(tied), "args": arguments, "train_dataset": rows, "processing_class": tokenizer}
    trainer = SharedPromptTrainer(lambda name, rows, score: score(list(rows)), **given) if ours else PreparedDPOTrainer(**given)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return trainer


def _written(rows, folder):
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(folder / "rows.parquet"))
    return str(folder / "rows.parquet")


def step(trainer):
    """Loss, gradient, metrics and reference of one step over all pairs."""
    trainer.model.train()
    batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
    loss = trainer.compute_loss(trainer.model, batch)
    trainer.model.zero_grad()
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    return SimpleNamespace(loss=loss.item(), gradient=gradient, metrics=metrics,
                           reference=torch.tensor([trainer.train_dataset[name] for name in ("ref_chosen_logps", "ref_rejected_logps")]))


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: "+".join(settings["loss_type"]))
def test_it_is_trls_step(settings, tied, tokenizer, tmp_path):
    pairs = pairs_of(SIZES)
    theirs = step(trainer_of(False, tied, tokenizer, tmp_path / "theirs", pairs, **settings))
    ours = step(trainer_of(True, tied, tokenizer, tmp_path / "ours", pairs, **settings))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-6)
    assert relative(ours.gradient, theirs.gradient) < RELATIVE_GRADIENT
    assert torch.allclose(ours.reference, theirs.reference, atol=5e-5)
    assert set(ours.metrics) == set(theirs.metrics)
    for key, value in theirs.metrics.items():
        assert ours.metrics[key] == pytest.approx(value, rel=1e-4, abs=2e-5), key


def test_each_pair_alone_is_the_same(tokenizer, tmp_path):
    """No pair of a row sees another: rows of one pair give the same log-probabilities."""
    pairs = pairs_of(SIZES)
    together = trainer_of(True, True, tokenizer, tmp_path / "together", pairs)
    for number, pair in enumerate(pairs):
        alone = trainer_of(True, True, tokenizer, tmp_path / str(number), [pair]).train_dataset[0]
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            assert together.train_dataset[number][name] == pytest.approx(alone[name], abs=2e-5)


def test_activations_computed_again_are_the_same(tokenizer, tmp_path):
    pairs = pairs_of(SIZES)
    trainer = trainer_of(True, True, tokenizer, tmp_path / "kept", pairs)
    kept = step(trainer)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert relative(step(trainer).gradient, kept.gradient) < 1e-6


def test_deepspeed_does_not_round_the_reference(tokenizer, tmp_path):
    """It turns a batch's numbers to the weights' type: of -300, bfloat16 keeps the unit."""
    trainer = trainer_of(True, True, tokenizer, tmp_path, pairs_of(SIZES))
    trainer.is_deepspeed_enabled = True
    batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert batch[name].dtype == torch.float64 and batch[name].tolist() == list(trainer.train_dataset[name])


# --- what must fail -------------------------------------------------------------------------------


def positions_that_go_on(pairs):
    row = pack(pairs)
    row["position_ids"] = torch.arange(row["input_ids"].shape[1])[None]
    return row


def positions_that_go_on_after_the_chosen_answer(pairs):
    row = pack(pairs)
    lengths = [places_of(*(len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))) for pair in pairs]
    row["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    return row


def attention_over(rule):
    """An attention by a dense mask of the row."""
    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, pair_lengths=None, **_):
        ids = [{"prompt_ids": [3] * p, "chosen_ids": [3] * c, "rejected_ids": [3] * r} for p, c, r in pair_lengths]
        groups = query.shape[1] // key.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), attn_mask=dense(pack(ids), rule), scale=scaling)
        return out.transpose(1, 2), None

    return attend


def dense(row, rule):
    places = torch.arange(row["input_ids"].shape[1])
    return rule(row, places[:, None], places[None, :])


def leaks_the_chosen_answer(row, query, key):
    return (row["pair"][0][query] == row["pair"][0][key]) & (query >= key)


def leaks_other_pairs(row, query, key):
    answer = row["answer"][0]
    return (query >= key) & ((answer[key] == BOTH) | (answer[key] == answer[query]))


@pytest.mark.parametrize("packing", [positions_that_go_on, positions_that_go_on_after_the_chosen_answer])
def test_positions_that_do_not_start_again_are_seen(packing, tokenizer, tmp_path, monkeypatch):
    pairs = pairs_of(SIZES)
    theirs = step(trainer_of(False, False, tokenizer, tmp_path / "theirs", pairs))
    monkeypatch.setattr(shared_prompt, "pack", packing)
    ours = step(trainer_of(True, False, tokenizer, tmp_path / "ours", pairs))
    assert relative(ours.gradient, theirs.gradient) > 100 * RELATIVE_GRADIENT
    assert not torch.allclose(ours.reference, theirs.reference, atol=1e-2)


@pytest.mark.parametrize(("rule", "right"), [(visible, True), (leaks_the_chosen_answer, False), (leaks_other_pairs, False)])
def test_a_mask_that_leaks_is_seen(rule, right, tokenizer, tmp_path, monkeypatch):
    from transformers import AttentionInterface

    monkeypatch.setitem(AttentionInterface._global_mapping, shared_prompt.PACKED, attention_over(rule))
    pairs = pairs_of(SIZES)
    theirs = step(trainer_of(False, False, tokenizer, tmp_path / "theirs", pairs))
    ours = step(trainer_of(True, False, tokenizer, tmp_path / "ours", pairs))
    assert (relative(ours.gradient, theirs.gradient) < RELATIVE_GRADIENT) is right
    assert torch.allclose(ours.reference, theirs.reference, atol=5e-5) is right


def test_rows_that_are_no_pairs_are_refused_and_plain_attention_takes_them(tokenizer, tmp_path):
    model = trainer_of(True, True, tokenizer, tmp_path, pairs_of(SIZES)).model
    ids = torch.tensor([[3, 4, 5]])
    with pytest.raises(ValueError, match="packed pairs only"):
        model(ids)
    with plain_attention(model, "sdpa"):
        plain = model(ids).logits
    wanted = model_of(True)
    wanted.load_state_dict(model.state_dict())
    assert torch.allclose(plain, wanted(ids).logits, atol=1e-6)
    assert model.config._attn_implementation == shared_prompt.PACKED


# --- the row --------------------------------------------------------------------------------------


def test_a_row_to_the_letter():
    pairs = [{"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [10, 11, 12]},
             {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]}]
    row = {name: values[0].tolist() for name, values in pack(pairs).items()}
    assert row["input_ids"] == [5, 6, 7, 8, 7, 10, 11, 5, 5]
    assert row["position_ids"] == [0, 1, 2, 3, 2, 3, 4, 0, 0]
    assert row["shift_labels"] == [IGNORED, IGNORED, 8, 9, 10, 11, 12, 6, 7]
    assert row["pair"] == [0] * 7 + [1, 1]
    assert row["answer"] == [BOTH, BOTH, CHOSEN, CHOSEN, REJECTED, REJECTED, REJECTED, CHOSEN, REJECTED]
    assert places_of(3, 2, 3) == 7 and places_of(1, 1, 1) == 2
    # TRL's rows are [chosen 0, chosen 1, rejected 0, rejected 1], five predictions wide.
    assert slots([(3, 2, 3), (1, 1, 1)], 5).tolist() == [2, 3, 12, 13, 14, 5, 15]


@pytest.mark.parametrize(("most", "rows"), [(1000, 1), (70, 2), (50, 3), (1, 6)])
def test_pairs_are_dealt_to_as_few_rows_as_their_places_allow(most, rows):
    dealt = share_out(SIZES, most)
    assert len(dealt) == rows
    assert sorted(number for row in dealt for number in row) == list(range(len(SIZES)))
    assert {len(row) for row in dealt} == {len(SIZES) // rows}
    assert max(sum(places_of(*SIZES[number]) for number in row) for row in dealt) <= most or rows == len(SIZES)
    assert len(share_out(SIZES, most, lambda found: max(found, 3))) == max(rows, 3)


def test_a_selected_batch_is_the_batch_of_those_pairs():
    pairs = [{**pair, "ref_chosen_logps": -1.0 * number, "ref_rejected_logps": -2.0 * number}
             for number, pair in enumerate(pairs_of([(3, 2, 3), (3, 3, 3), (2, 4, 1)]))]
    collator = SharedPromptCollator(pad_token_id=0)
    some, wanted = select(collator(pairs), [1, 2]), collator(pairs[1:])
    assert some.keys() == wanted.keys() and some[shared_prompt.LENGTHS] == wanted[shared_prompt.LENGTHS]
    for name in some.keys() - {shared_prompt.PACKED, shared_prompt.LENGTHS}:
        assert torch.equal(some[name], wanted[name]), name
    for name, values in some[shared_prompt.PACKED].items():
        assert torch.equal(values - int(name == "pair"), wanted[shared_prompt.PACKED][name]), name


def test_the_gpus_mask_is_the_same_rule():
    """Flex attention's block mask, computed on this processor without gradients, against the calls a pair."""
    from torch.nn.attention.flex_attention import flex_attention

    pairs = pairs_of(SIZES)
    row, generator = pack(pairs), torch.Generator().manual_seed(3)
    places = row["input_ids"].shape[1]
    query, key, value = (torch.randn(1, heads, places, 16, generator=generator) for heads in (4, 2, 2))
    flex = flex_attention(query, key, value, block_mask=block_mask(row), enable_gqa=True)
    lengths = [tuple(len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")) for pair in pairs]
    ours, _ = shared_prompt.attend_by_pair(None, query, key, value, None, **shared_prompt._attention(row, lengths))
    assert torch.allclose(flex.transpose(1, 2), ours, atol=1e-5)


def test_the_gpus_forward_gives_the_same_reference(tokenizer, tmp_path, monkeypatch):
    """The whole way of a GPU but its kernel: flex attention runs uncompiled here, and has no backward pass on a CPU."""
    pairs = pairs_of(SIZES)
    ours = trainer_of(True, True, tokenizer, tmp_path / "ours", pairs).train_dataset
    for module in (shared_prompt, preference_trainer):
        monkeypatch.setattr(module, "attention_for", lambda device: "flex_attention")
    torch.compiler.set_stance("force_eager")
    try:
        flex = trainer_of(True, True, tokenizer, tmp_path / "flex", pairs)
    finally:
        torch.compiler.set_stance("default")
    assert flex.model.config._attn_implementation == "flex_attention"
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert list(flex.train_dataset[name]) == pytest.approx(list(ours[name]), abs=5e-5)


# --- a round --------------------------------------------------------------------------------------


ROUNDS = [[], ["loss=ipo"], ["loss=sigmoid_norm"], ["loss=robust", "label_smoothing=0.1"], ["sft_weight=0.5"]]


@pytest.mark.parametrize("changes", ROUNDS, ids=str)
def test_a_round_is_trls_round(changes, tiny, tmp_path, job):
    logs = {}
    for forward in ("trl", "shared-prompt"):
        recipe = load_recipe("tiny", [f"dpo.forward={forward}", "dpo.steps=4", "dpo.samples=0", *(f"dpo.{change}" for change in changes)])
        record = train_dpo(recipe, 1, tiny["base"], tiny["preferences"], tmp_path / forward, job)
        logs[forward] = (json.loads((tmp_path / forward / "training_log.json").read_text()), record.measured)
    for ours, theirs in zip(logs["shared-prompt"][0], logs["trl"][0], strict=True):
        for key in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "entropy"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4, abs=2e-5), key
    ours, theirs = (logs[forward][1]["held_out"] for forward in ("shared-prompt", "trl"))
    assert ours["margin"] == pytest.approx(theirs["margin"], rel=1e-3, abs=1e-5)
    if not changes:
        assert logs["shared-prompt"][1]["first_loss"] == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("changes", [[], ["sft_weight=0.5"]], ids=str)
def test_a_round_in_several_rows_is_the_round_in_one(changes, tiny, tmp_path, job, monkeypatch):
    dealt = []
    monkeypatch.setattr(preference_trainer, "share_out", lambda *given: dealt.append(share_out(*given)) or dealt[-1])
    logs = []
    for rows in ("row_tokens=null", "row_tokens=256"):
        recipe = load_recipe("tiny", ["dpo.steps=4", "dpo.samples=0", f"dpo.{rows}", *(f"dpo.{change}" for change in changes)])
        train_dpo(recipe, 1, tiny["base"], tiny["preferences"], tmp_path / rows, job)
        logs.append(json.loads((tmp_path / rows / "training_log.json").read_text()))
    assert min(map(len, dealt)) > 1
    # The SFT loss is a mean over tokens of a row, as TRL's is over those of a micro-step.
    for one, several in zip(*logs, strict=True):
        for key in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
            assert several[key] == pytest.approx(one[key], rel=0.2 if changes else 1e-4, abs=1e-5), key


def test_a_row_must_hold_the_longest_pair(refusal):
    assert "at least 2 x max_length = 256" in refusal(lambda: load_recipe("tiny", ["dpo.row_tokens=255"]))
    assert "needs forward 'shared-prompt'" in refusal(lambda: load_recipe("tiny", ["dpo.row_tokens=999", "dpo.forward=trl"]))
