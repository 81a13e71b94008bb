"""The stage `prepare_base`: the model that training starts from, with its tokenizer, as one pinned artifact."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from med42.data.chat import BEGIN, END, PAD, SPECIAL_TOKENS, TEMPLATE, TURN_END, Chat
from med42.data.hub import check_digests, fetch_hub, resolve
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.recipe.lock import lockable, pin_of
from med42.recipe.schema import HubBase, HubOrigin, Pin, RandomBase
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.model import write_weights

# How Llama 3 cuts text before byte-pair merges: contractions, words, up to three digits, punctuation, spaces.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@stage
def prepare_base(recipe: Recipe, mix: Path | None, out: Path, job: Job) -> Record:
    """Fetch the base model by revision, or make a random one whose tokenizer is trained on the mix.

    The model keeps its own tokenizer; its chat template is replaced by ours, the same format with marks
    round what the assistant says.

    Raises:
        Med42Error: the hub refuses, or the repository holds no safetensors weights.
    """
    base = recipe.base
    parameters: dict[str, Any] = {"base": base.model_dump(mode="json")}
    if isinstance(base, RandomBase):
        if mix is None:
            raise Med42Error("base", "kind 'random' without a mix", "the mix that its tokenizer is trained on", "Give the mix artifact.")
        packages = ("torch", "transformers", "tokenizers")
        plan = Plan("prepare_base", "model", parameters | {"seed": recipe.seed}, {"mix": mix}, "training", packages)
        return produce(plan, out, job, lambda draft: _random(base, recipe.seed, mix, draft))
    origin = lockable(recipe)["base"]
    assert isinstance(origin, HubOrigin)
    pin = pin_of(recipe, "base", origin)
    # By commit where there is no pin: a branch that moved on is another base, and not one that is finished already.
    commit, names = (pin.revision, list(pin.files)) if pin and pin.revision else resolve(origin, "base", "model")
    plan = Plan("prepare_base", "model", parameters | {"commit": commit, "pinned": pin.files if pin else {}}, {}, "training")
    return produce(plan, out, job, lambda draft: _fetched(base, origin, commit, sorted(names), pin, draft))


def _fetched(base: HubBase, origin: HubOrigin, commit: str, names: list[str], pin: Pin | None, draft: Path) -> Outcome:
    if not any(name.endswith(".safetensors") for name in names):
        raise Med42Error(f"base: model {base.repo}", "no *.safetensors file", "weights as safetensors (pickled weights are refused)",
                         "Choose a repository or revision with safetensors.")
    files = fetch_hub(origin, commit, names, "base", "model")
    check_digests(files, pin, "base")
    for name, path in files.items():
        shutil.copyfile(path.resolve(), draft / name)
    shutil.copyfile(TEMPLATE, draft / "chat_template.jinja")
    Chat(draft)
    _write_page(draft, f"{base.repo} at commit {commit}", base.license)
    return Outcome({"repo": base.repo, "commit": commit, "license": base.license, "summary": f"{base.repo}@{commit[:12]}"})


def _random(base: RandomBase, seed: int, mix: Path, draft: Path) -> Outcome:
    work_offline_and_quietly()
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = train_tokenizer(base.vocabulary, texts_of(mix))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, model_max_length=base.context
    )
    wrapped.chat_template = TEMPLATE.read_text()
    wrapped.save_pretrained(draft)
    begin, end, turn_end, pad = (tokenizer.token_to_id(token) for token in (BEGIN, END, TURN_END, PAD))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=base.hidden_size, num_hidden_layers=base.layers, num_attention_heads=base.heads,
        num_key_value_heads=base.kv_heads, intermediate_size=base.feed_forward, max_position_embeddings=base.context,
        rope_parameters={"rope_type": "default", "rope_theta": base.rope_theta}, initializer_range=base.initializer_range,
        tie_word_embeddings=True, bos_token_id=begin, eos_token_id=end, pad_token_id=pad,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=begin, eos_token_id=[end, turn_end], pad_token_id=pad)
    write_weights(model, draft)
    parameters = model.num_parameters()
    lead = f"Llama-3 shape with random weights: {parameters:,} parameters, {config.vocab_size:,} tokens"
    _write_page(draft, lead, base.license)
    return Outcome({"parameters": parameters, "vocabulary": config.vocab_size, "license": base.license,
                    "summary": f"random, {parameters:,} parameters"})


def texts_of(mix: Path) -> Iterator[str]:
    """Every turn of a mix."""
    return (message["content"] for row in read_shards(mix, ["messages"]) for message in row["messages"])


def train_tokenizer(vocabulary: int, texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer with Llama 3's pre-tokeniser and control tokens, trained on some texts.

    Args:
        vocabulary: the size asked for; texts with fewer merges give a smaller one.
        texts: what to train on.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write_page(draft: Path, lead: str, license_id: str) -> None:
    files = [(path.name, path.stat().st_size) for path in sorted(draft.iterdir())]
    (draft / "page.html").write_text(page.page("Base model", lead + ".", [
        page.paragraph(f"Licence: {license_id}."), page.heading("Files"), page.table(("file", "bytes"), files),
    ]))
