"""tiktoken stands for a tokenizer only where its ids are the same."""

import json
import time
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from med42.data.chat import SPECIAL_TOKENS
from med42.data.encoding import TextEncoder, why_not_tiktoken
from med42.data.shards import read_shards

TEXTS = ["Dafin: 10 mg, naïve 日本 \U0001f642", "it's  a\n\n test\r\n", "<|eot_id|><|begin_of_text|>", "", " ", "12345 6", "x" * 5000]


@pytest.fixture(scope="module")
def path(base: Path) -> Path:
    return base / "tokenizer.json"


@pytest.fixture(scope="module")
def both(path: Path) -> tuple[TextEncoder, TextEncoder]:
    return TextEncoder(path, fast=True), TextEncoder(path)


def changed(path: Path, folder: Path, change) -> Path:
    """A tokenizer with something else about it."""
    description = json.loads(path.read_text())
    change(description)
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return folder / "tokenizer.json"


def differing(both: tuple[TextEncoder, TextEncoder], texts: list[str]) -> list[str]:
    """The texts of which the two make other ids."""
    fast, slow = (encoder.arrays(texts) for encoder in both)
    return [text for text, one, other in zip(texts, fast, slow, strict=True) if one.tolist() != other.tolist()]


def test_the_whole_mix_has_the_same_ids(tiny, path, both):
    texts = [message["content"] for row in read_shards(tiny.mix) for message in row["messages"]]
    assert why_not_tiktoken(path, texts[:100]) == ""
    assert differing(both, texts + TEXTS) == []


def test_every_character_is_cut_alike(both):
    # The two engines bring their own tables of what is a letter, a number, white space, and the other case of one.
    characters = [chr(point) for point in range(0x110000) if unicodedata.category(chr(point)) not in ("Cs", "Cn", "Co")]
    assert len(characters) > 130_000
    assert differing(both, [f"x{c}{c}9{c}?{c} {c}'{c}\n" for c in characters]) == []


@pytest.mark.parametrize("pattern", ["a", "!", "ab", "日", "1", " a", "a b\n", "é"])
def test_a_very_long_word_takes_time_in_proportion(both, pattern):
    fast, _ = both
    texts = [(pattern * size)[:size] for size in (50_000, 1_000_000)]
    seconds = []
    for text in texts:
        clock = time.process_time()
        fast.arrays([text])
        seconds.append(time.process_time() - clock)
    # 20 times as long: 20 times the time, a little more by its logarithm; squared it would be 400.
    assert seconds[1] < 100 * max(seconds[0], 0.001)
    assert differing(both, texts[:1]) == []


def test_what_tiktokens_pattern_cannot_take_goes_the_other_way(both):
    assert differing(both, ["a" + " " * 1_500_000 + "b"]) == []


def test_what_neither_can_take_is_told(both, refusal):
    for encoder in both:
        told = refusal(lambda encoder=encoder: encoder.arrays(["fine", "a" + " " * 12_000_000 + "b"]))
        assert "a text of 12,000,002 characters: found more than the tokenizer can cut" in told


def test_ten_megabytes_of_one_letter(both):
    fast, _ = both
    (ids,) = fast.arrays(["a" * 10_000_000])
    assert both[1].tokenizer.decode(ids.tolist()) == "a" * 10_000_000


@pytest.mark.parametrize(("change", "reason"), [
    (lambda d: d["model"].update(ignore_merges=False), "no BPE that looks up whole pieces"),
    (lambda d: d["model"].update(byte_fallback=True), "its model has byte_fallback"),
    (lambda d: d.update(normalizer={"type": "NFC"}), "it changes the text first"),
    (lambda d: d.update(pre_tokenizer=None), "not cut by one pattern alone"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "not cut by one pattern alone"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "not cut by one pattern alone"),
    (lambda d: d["added_tokens"][3].update(special=False), "'<|end_header_id|>' is an added token that is no control token"),
    (lambda d: d["model"]["merges"].reverse(), "its merges are not in the order of the ids they make"),
    (lambda d: d["model"]["vocab"].update({"日": 99_999}), "its vocabulary is not one of bytes"),
])
def test_a_tokenizer_of_another_kind_goes_the_other_way(path, tmp_path, change, reason):
    assert reason in why_not_tiktoken(changed(path, tmp_path, change), TEXTS)


def test_other_ids_in_the_sample_are_seen(path, tmp_path):
    # Its first merge taken away, the token that it makes stays in the vocabulary: tiktoken still joins its two halves.
    gone = []

    def without_a_merge(description):
        gone.append("".join(description["model"]["merges"].pop(0)).replace("Ġ", " "))

    other = changed(path, tmp_path, without_a_merge)
    assert why_not_tiktoken(other, ["9", f"q{gone[0]}q"]) == "text 2 of a sample of 2 has other ids"


def test_merges_written_the_old_way_are_read(path, tmp_path, both):
    def as_text(description):
        description["model"]["merges"] = [" ".join(pair) for pair in description["model"]["merges"]]

    assert why_not_tiktoken(changed(path, tmp_path, as_text), TEXTS) == ""


def test_a_tokenizer_of_other_words_is_read(tmp_path):
    """A vocabulary in which bytes have ids out of order, as those of published tokenizers have."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["ab abc abcd bcd dcba " * 20], trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=list(SPECIAL_TOKENS), show_progress=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert why_not_tiktoken(tmp_path / "tokenizer.json", ["abcdcba ab dc", *TEXTS]) == ""
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert why_not_tiktoken(tmp_path / "tokenizer.json", ["abc"]) == "it changes the text first"
