"""A ranker of pairs: it loads its layout, and what it says of two answers does not depend on which comes first."""

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from med42.data.answers import ANSWERS, SCORED, read_answers, write_answers
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.recipe import load_recipe
from med42.training.pair_ranker import FIRST, SECOND, SOURCE, PairRanker, load_ranker
from med42.training.score_answers import score_answers

SAID = ["may", "i", "take", "it", "no", "yes", "ask", "your", "doctor", "never"]
WORDS = ["<pad>", "<unk>", "[CLS]", "[SEP]", SOURCE, FIRST, SECOND, *SAID]
ANSWERED = ["no", "yes ask your doctor", "never take it"]


@pytest.fixture
def folder(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="[CLS]", sep_token="[SEP]",
                            additional_special_tokens=[SOURCE, FIRST, SECOND]).save_pretrained(tmp_path / "ranker")
    torch.manual_seed(0)
    config = DebertaV2Config(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                             max_position_embeddings=64, initializer_range=0.5, pad_token_id=0, drop_out=0.05, n_tasks=1)
    config.save_pretrained(tmp_path / "ranker")
    save_file(PairRanker(config, [4, 5, 6]).state_dict(), tmp_path / "ranker" / "model.safetensors")
    return tmp_path / "ranker"


def test_the_weights_have_the_published_names(folder):
    names = load_file(folder / "model.safetensors")
    assert {name for name in names if not name.startswith("pretrained_model.")} == {
        f"head_layer.{number}.{part}" for number in (1, 4) for part in ("weight", "bias")}
    assert "pretrained_model.embeddings.word_embeddings.weight" in names


def test_scores_follow_the_answers_and_add_up_to_nothing(folder):
    score = load_ranker(folder, torch.float32, "cpu")
    first = score("may i take it", ANSWERED)
    assert sum(first) == pytest.approx(0, abs=1e-5)
    assert len({round(value, 4) for value in first}) == 3
    for order in itertools.permutations(range(3)):
        assert score("may i take it", [ANSWERED[place] for place in order]) == pytest.approx([first[place] for place in order], abs=1e-5)


def test_of_two_answers_it_is_the_model_both_ways_round(folder):
    model = PairRanker(DebertaV2Config.from_pretrained(folder), [4, 5, 6])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()
    # [CLS] source may i [SEP] [CLS] candidate1 no [SEP] [CLS] candidate2 yes [SEP], and the other way round
    rows = torch.tensor([[2, 4, 7, 8, 3, 2, 5, one, 3, 2, 6, other, 3] for one, other in ((11, 12), (12, 11))])
    with torch.no_grad():
        ways = model(rows, torch.ones_like(rows))
    found = load_ranker(folder, torch.float32, "cpu")("may i", ["no", "yes"])
    assert found == pytest.approx([((ways[0] - ways[1]) / 2).item(), ((ways[1] - ways[0]) / 2).item()], abs=1e-5)


def test_other_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["head_layer.4.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(Med42Error, match=r"head_layer\.4\.bias.*expected the weights of a pair ranker"):
        load_ranker(folder, torch.float32, "cpu")


def test_a_round_is_scored_by_it(folder, tmp_path):
    job = Job("test", None, tmp_path)
    row = {"id": "0" * 64, "prompt": [{"role": "user", "content": "may i take it"}], "chosen": "no", "rejected": "yes", "answers": ANSWERED}

    def build(draft):
        write_answers(draft / ANSWERS, [row])
        return Outcome()

    produce(Plan("sample_answers", "answers", {}, {}, "training", name="sample_answers-1"), tmp_path / "answers", job, build)
    recipe = load_recipe("tiny", ["dpo.on_policy={reward: {kind: pair_ranker, folder: ranker, dtype: float32}}"])
    score_answers(recipe, 1, tmp_path / "answers", tmp_path / "scored", job)
    [scored] = read_answers(tmp_path / "scored" / SCORED)
    assert scored["scores"] == pytest.approx(load_ranker(folder, torch.float32, "cpu")("may i take it", ANSWERED), abs=1e-6)
