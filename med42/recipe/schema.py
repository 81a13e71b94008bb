"""The recipe's schema: every knob of an experiment, typed, frozen, with unknown keys refused.

A recipe is read from YAML by `med42.recipe.load`; nothing else changes a result. Where a key holds
a number of the Med42-v2 paper (arXiv 2408.06142), `docs/paper.md` names its table.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=48)]


class Frozen(BaseModel):
    """A frozen record that refuses unknown keys and names the nearest key it knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.0)
                raise ValueError(f"unknown key '{key}'; the nearest known key is '{near[0]}'")
        return given


# --- where things come from -------------------------------------------------------------------


class HubOrigin(Frozen):
    """Files of a dataset repository on a Hugging Face hub, by revision."""

    kind: Literal["hub"]
    repo: str
    revision: str = "main"
    files: list[str] = Field(min_length=1, description="glob patterns inside the repository")


class FileOrigin(Frozen):
    """Files by name, looked up in the run's data root."""

    kind: Literal["file"]
    files: list[str] = Field(min_length=1)


class InventedOrigin(Frozen):
    """Rows that the project makes itself from its seeded world of invented drugs."""

    kind: Literal["invented"]
    part: str


class BucketOrigin(Frozen):
    """Objects below a prefix of a Google Cloud Storage bucket."""

    kind: Literal["bucket"]
    url: str = Field(pattern=r"^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?$", description="gs://bucket/prefix")
    files: list[str] = Field(min_length=1, description="glob patterns of what comes after the prefix")


Origin = Annotated[HubOrigin | FileOrigin | BucketOrigin | InventedOrigin, Field(discriminator="kind")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Pin(Frozen):
    """What an origin was found to be when the recipe was locked: a run reads these bytes or none."""

    of: Annotated[HubOrigin | FileOrigin | BucketOrigin, Field(discriminator="kind")] = Field(description="the origin as it then stood")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(default=None, description="the commit, of a hub's repository")
    generations: dict[str, str] = Field(default={}, description="of a bucket's objects")
    files: dict[str, Sha256] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_what_can_be_fetched(self) -> Pin:
        if (self.revision is not None) != isinstance(self.of, HubOrigin):
            raise ValueError("needs 'revision' for a hub, and for nothing else")
        if set(self.generations) != (set(self.files) if isinstance(self.of, BucketOrigin) else set()):
            raise ValueError("needs 'generations' of the same files for a bucket, and for nothing else")
        return self


class Part(Frozen):
    """One of several disjoint parts of a set, chosen by row digest."""

    index: PositiveInt
    of: PositiveInt

    @model_validator(mode="after")
    def _index_is_within(self) -> Part:
        if self.index > self.of:
            raise ValueError(f"part {self.index} of {self.of} does not exist")
        return self


class Shape(Frozen):
    """The sizes of a Llama model, for estimates before its weights are there."""

    vocabulary: PositiveInt
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    feed_forward: PositiveInt
    tied: bool = Field(default=False, description="whether the head uses the embedding's weights")


class HubBase(Frozen):
    """A published base model, by revision."""

    kind: Literal["hub"]
    repo: str
    revision: str = "main"
    license: str
    shape: Shape | None = Field(default=None, description="for estimates; the weights' own configuration is what is trained")


class RandomBase(Frozen):
    """A Llama-3-shaped model with random weights and a tokenizer trained on the mix.

    It exists so that the whole road can be run, and seen to learn, without fetching weights.
    """

    kind: Literal["random"]
    vocabulary: PositiveInt = Field(description="size the tokenizer's training asks for")
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    feed_forward: PositiveInt
    rope_theta: Positive = 10_000.0
    context: PositiveInt
    initializer_range: Positive = 0.02
    license: str = "Apache-2.0"

    @property
    def shape(self) -> Shape:
        """Its sizes; the head is tied to the embedding."""
        return Shape(vocabulary=self.vocabulary, hidden_size=self.hidden_size, layers=self.layers, heads=self.heads,
                     kv_heads=self.kv_heads, feed_forward=self.feed_forward, tied=True)


# --- data ---------------------------------------------------------------------------------------


PhiCategory = Literal[
    "name", "place", "date", "phone", "fax", "email", "ssn", "record", "health_plan", "account", "licence", "vehicle", "device",
    "url", "ip", "biometric", "photo", "other",
]
PhiPolicy = Literal["report", "mask", "drop", "stop"]


class Phi(Frozen):
    """The gate that looks for the 18 identifier categories of HIPAA's Safe Harbor (45 CFR 164.514(b)(2))."""

    policy: PhiPolicy = Field(
        default="report", description="rows with identifiers: count them, mask the identifiers, drop the rows, or stop the run"
    )
    spared: list[PhiCategory] = Field(default=[], description="categories that are counted, but never masked, dropped or stopped for")
    detector: Literal["patterns", "presidio"] = Field(default="patterns", description="our recognisers; or these and Presidio's")
    model: str | None = Field(default=None, description="with presidio: an installed spaCy pipeline that finds names and places")
    sample: Fraction = Field(default=1.0, description="share of a source's rows that is examined, chosen by row digest")
    least_score: Fraction = Field(default=0.5, description="findings less certain than this are not counted")
    planted: NonNegativeInt = Field(
        default=50, description="rows a source into whose copies identifiers of every category are planted, to measure what is missed"
    )

    @model_validator(mode="after")
    def _model_has_a_detector(self) -> Phi:
        if self.model is not None and self.detector != "presidio":
            raise ValueError("'model' needs detector 'presidio'")
        return self


class Source(Frozen):
    """One SFT source (a row of Table 5)."""

    domain: Literal["medical", "general"]
    family: Name = Field(description="the converter: a module of med42.data.sources")
    origin: Origin
    labels: Origin | None = Field(default=None, description="rows that tell which part of the set each row belongs to")
    license: str
    terms: str = Field(default="", description="where the licence or terms can be read")
    system: str | None = Field(default=None, description="system turn put first, if any")
    wordings: Literal["several", "plain"] = Field(
        default="several", description="how exam questions and abstracts are put: in several ways, by row digest; or as the benchmarks are"
    )
    sites: list[str] = Field(default=[], description="the subsets of the publisher that are used")
    rows: PositiveInt | None = Field(default=None, description="rows to take into the mix")
    weight: Positive | None = Field(default=None, description="share of mix.rows, relative")
    paper_rows: PositiveInt | None = Field(default=None, description="Table 5's printed count")
    paper_percent: NonNegative | None = Field(default=None, description="Table 5's printed share")
    shards: PositiveInt = Field(default=1, description="tasks that prepare it side by side; changes nothing but the time")
    phi: PhiPolicy | None = Field(default=None, description="what becomes of its rows with identifiers, instead of phi.policy")

    @model_validator(mode="after")
    def _rows_or_weight(self) -> Source:
        if self.rows is not None and self.weight is not None:
            raise ValueError("has both 'rows' and 'weight'; give one of them")
        return self


class Dedup(Frozen):
    """Near duplicates, inside and across sources; exact ones always go."""

    near: bool = True
    similarity: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        default=0.8, description="share of pairs of words that two rows have in common (Jaccard), both what they ask and what they answer"
    )
    keep: Literal["first", "longest"] = Field(default="first", description="of near rows: the first by digest, or the longest")


class Mix(Frozen):
    """How the sources become one training set."""

    rows: PositiveInt | None = Field(default=None, description="total shared out by weights")
    shortfall: Literal["error", "accept"] = "error"
    repeat_limit: Positive = Field(default=1.0, description="most passes over one source's rows")
    general_share: Fraction | None = Field(default=None, description="share of general rows, met by scaling the general sources")
    general_tolerance: NonNegative = Field(
        default=0.00005, description="a share that near is met: printed as 26.50%, it stands for all within half its last digit"
    )
    overlap_tokens: PositiveInt = Field(
        default=13, description="a shared run of this many words with a benchmark row is a leak"
    )
    overlap_question: PositiveInt = Field(
        default=8, description="a shorter question with lettered options leaks only where its right answer stands too"
    )
    overlap_common: PositiveInt = Field(
        default=10, description="words that stand in this many benchmark rows are a turn of phrase, which tells nothing of one of them"
    )
    leaks: Literal["drop", "keep"] = Field(default="drop", description="what becomes of rows that leak; kept ones count as residue")
    residue: NonNegativeInt = Field(default=0, description="leaks that the finished mix may hold; more stop the run")
    dedup: Dedup = Dedup()


class Pack(Frozen):
    """How conversations become chunks of equal length."""

    chunk: PositiveInt
    too_long: Literal["truncate", "split", "drop"] = "truncate"
    plan: Literal["global", "streaming"] = Field(
        default="global", description="all documents at once, 16 bytes of memory each; or one pass with 64 open chunks, for larger sets"
    )
    expected_tokens_per_row: Positive | None = Field(
        default=None, description="for estimates before the data is packed"
    )


# --- training -----------------------------------------------------------------------------------


class Optimizer(Frozen):
    """An optimizer and its learning-rate schedule."""

    optimizer: Literal["adamw", "rmsprop"]
    learning_rate: Positive
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: Fraction = Field(default=0.0, description="share of all steps")
    clip_norm: Positive = 1.0


class Devices(Frozen):
    """What one training job runs on.

    A job that loses a process or a node starts again from its last checkpoint, `restarts` times, and fails the next time.
    """

    nodes: PositiveInt = 1
    gpus_per_node: NonNegativeInt = Field(default=0, description="0: one CPU process")
    accelerator: str = ""
    restarts: NonNegativeInt = 0

    @property
    def processes(self) -> int:
        """Number of training processes: one a GPU, or one without GPUs."""
        return self.nodes * max(1, self.gpus_per_node)


class Compute(Frozen):
    """Numbers that shape the computation but not the objective."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    activation_checkpointing: bool = False
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    threads: PositiveInt | None = Field(default=None, description="CPU threads of one process")
    sharding: Literal["ddp", "zero-2", "zero-3"] = Field(
        default="ddp", description="what processes share out: nothing; gradients and optimizer; weights too, as FSDP's full shard does"
    )
    log_every: PositiveInt = Field(default=10, description="steps between two lines of progress; every step is in the training log")
    checkpoint_every: NonNegativeInt = Field(default=0, description="steps; 0: no checkpoints")
    checkpoints_kept: int = Field(default=2, ge=2, description="the newest ones; one of them may be half written when a node is lost")
    diverges_at: Positive = Field(default=3.0, description="a logged loss that is this many times the first one stops the training")


class Lora(Frozen):
    """Train low-rank updates of the projections instead of all weights; the model that comes out has them added in."""

    rank: PositiveInt
    alpha: PositiveInt = Field(description="the update is scaled by alpha / rank")
    dropout: Fraction = 0.0
    projections: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )


class Sft(Optimizer, Compute):
    """Supervised fine-tuning (Table 2)."""

    epochs: Positive
    steps: NonNegativeInt | None = Field(default=None, description="exact count, instead of epochs")
    batch: PositiveInt = Field(description="packed chunks one optimizer step sees, over all processes")
    rows_per_device: PositiveInt
    lora: Lora | None = Field(default=None, description="absent: all weights are trained, as in the paper")
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _batch_is_reachable(self) -> Sft:
        _micro_steps(self.batch, self.devices, self.rows_per_device, "rows_per_device")
        return self

    @property
    def accumulation(self) -> int:
        """Micro-steps a process adds up before one optimizer step."""
        return _micro_steps(self.batch, self.devices, self.rows_per_device, "rows_per_device")


class PreferenceSource(Frozen):
    """One published set of preference pairs."""

    family: Name = Field(description="the converter: a module of med42.preferences.sources")
    origin: Origin
    license: str
    terms: str = ""
    part: Part | None = None
    rows: PositiveInt | None = Field(
        default=None, description="pairs the publisher's split holds, for estimates"
    )


class Dpo(Optimizer, Compute):
    """One or more rounds of direct preference optimisation (Table 3)."""

    rounds: list[list[Name]] = Field(description="the preference sources of each round")
    held_out: list[Name] = Field(default=[], description="preference sources to measure on, in no round")
    beta: Positive
    loss: Literal["sigmoid"] = "sigmoid"
    epochs: Positive
    steps: NonNegativeInt | None = None
    batch: PositiveInt = Field(description="pairs one optimizer step sees, over all processes")
    pairs_per_device: PositiveInt
    max_length: PositiveInt
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _batch_is_reachable(self) -> Dpo:
        _micro_steps(self.batch, self.devices, self.pairs_per_device, "pairs_per_device")
        return self

    @property
    def accumulation(self) -> int:
        """Micro-steps a process adds up before one optimizer step."""
        return _micro_steps(self.batch, self.devices, self.pairs_per_device, "pairs_per_device")


def _micro_steps(batch: int, devices: Devices, at_once: int, key: str) -> int:
    """Micro-steps that make up a batch: batch = processes x at once on each x micro-steps."""
    processes = devices.processes
    if batch % (processes * at_once) == 0:
        return batch // (processes * at_once)
    fitting = [f"{key}={number}" for number in range(1, batch // processes + 1) if batch % (processes * number) == 0]
    others = [str(number) for number in range(1, batch // at_once + 1) if batch % (number * at_once) == 0]
    ways = [f"with {processes} processes: {', '.join(fitting)}"] if fitting else []
    ways += [f"with {key}={at_once}: {', '.join(others)} processes"] if others else []
    raise ValueError(f"batch {batch} is no multiple of {processes} processes x {key} {at_once} = {processes * at_once}; "
                     f"what reaches it {'; '.join(ways) or f'with {key}=1: a number of processes that divides {batch}'}")


# --- evaluation and release ---------------------------------------------------------------------


class Benchmark(Frozen):
    """One benchmark; `average` columns make up the mean of Table 4."""

    family: Name = Field(description="the converter: a module of med42.evaluation.benchmarks")
    origin: Origin
    license: str
    terms: str = ""
    in_average: bool = True
    sites: list[str] = Field(default=[], description="the subsets of the publisher that are used")
    paper_items: PositiveInt | None = Field(default=None, description="items behind Table 4")


class Evaluation(Frozen):
    """The protocol: full-answer log-likelihood, zero-shot, chat template applied (section 3)."""

    benchmarks: dict[Name, Benchmark]
    answer: Literal["letter_and_text", "text", "letter"] = "letter_and_text"
    normalisation: Literal["none", "characters"] = "none"
    every_round: bool = Field(default=True, description="score each DPO round, not the last alone")
    limit: PositiveInt | None = Field(default=None, description="items a benchmark, for trials")
    batch: PositiveInt = 8
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads: PositiveInt | None = None
    devices: Devices = Devices()


class Gate(Frozen):
    """One rule that the last model must meet before it is pushed."""

    score: Name = Field(description="'average' or a benchmark's name")
    at_least: float | None = None
    at_most: float | None = None
    not_below: Literal["base", "sft"] | None = Field(
        default=None, description="an earlier model that must not be beaten by"
    )
    allowance: NonNegative = Field(default=0.0, description="how far below is still accepted")

    @model_validator(mode="after")
    def _one_rule(self) -> Gate:
        if sum(rule is not None for rule in (self.at_least, self.at_most, self.not_below)) != 1:
            raise ValueError("needs exactly one of 'at_least', 'at_most', 'not_below'")
        return self


class Push(Frozen):
    """Where a released model goes."""

    kind: Literal["directory", "hub"]
    repo: str | None = Field(default=None, description="owner/name on the hub")
    private: bool = True
    gated: Literal["auto", "manual"] | None = Field(default=None, description="who asks for access is let in at once, or by a person")
    tag: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                            description="names the release on the hub and is never moved; by default release-<its record>")

    @model_validator(mode="after")
    def _hub_has_a_repository(self) -> Push:
        if self.kind == "hub" and not self.repo:
            raise ValueError("kind 'hub' needs 'repo' (owner/name)")
        return self


class Audit(Frozen):
    """The audit bundle at the end of a run."""

    signed: bool = Field(default=False, description="refuse to push or seal without a signing key; with one both are signed in any case")


class Limits(Frozen):
    """What preflight asks of the machine that runs the stages."""

    disk_gib: NonNegative = 1.0
    memory_gib: NonNegative = 2.0


class Paper(Frozen):
    """Figures the paper prints about a run, which are results or sums and not settings."""

    model: str
    sft_gpus: PositiveInt
    sft_steps: PositiveInt
    sft_tokens_per_step: PositiveInt
    dpo_gpus: PositiveInt
    medical_rows: PositiveInt
    medical_percent: Positive
    general_rows: PositiveInt
    general_percent: Positive
    total_rows: PositiveInt
    notes: dict[Name, str] = Field(default={}, description="by source: what its rows are, and why they may not be the printed ones")


class Recipe(Frozen):
    """A whole experiment."""

    name: Name
    title: str
    use: Literal["research", "commercial"] = "research"
    seed: NonNegativeInt = 0
    base: Annotated[HubBase | RandomBase, Field(discriminator="kind")]
    sources: dict[Name, Source] = Field(min_length=1)
    phi: Phi = Phi()
    mix: Mix = Mix()
    pack: Pack
    sft: Sft
    preferences: dict[Name, PreferenceSource] = {}
    dpo: Dpo
    evaluation: Evaluation
    gates: list[Gate] = []
    push: Push
    audit: Audit = Audit()
    limits: Limits = Limits()
    unlocked: Literal["refuse", "allow"] = Field(default="refuse", description="whether a hub or bucket may be read without a pin")
    pins: dict[str, Pin] = Field(default={}, description="by key, as sources.medquad: written by `med42 lock` beside the recipe")
    paper: Paper | None = None

    @model_validator(mode="after")
    def _what_is_cleaned_is_examined_whole(self) -> Recipe:
        policies = {"phi.policy": self.phi.policy} | {f"sources.{name}.phi": source.phi for name, source in self.sources.items()}
        for key, policy in policies.items():
            if policy in ("mask", "drop") and self.phi.sample < 1:
                raise ValueError(f"{key} is '{policy}', which would leave the rows outside the sample as they are; phi.sample must be 1")
        return self

    @model_validator(mode="after")
    def _a_step_sees_the_papers_tokens(self) -> Recipe:
        if self.paper and self.sft.batch * self.pack.chunk != self.paper.sft_tokens_per_step:
            printed = self.paper.sft_tokens_per_step
            fitting = f"set sft.batch={printed // self.pack.chunk}" if printed % self.pack.chunk == 0 else "choose a chunk that divides it"
            raise ValueError(f"sft.batch {self.sft.batch} x pack.chunk {self.pack.chunk:,} = {self.sft.batch * self.pack.chunk:,} tokens "
                             f"a step; Table 2 prints {printed:,}: {fitting}, or paper=null for an experiment of your own")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Recipe:
        weighted = [name for name, source in self.sources.items() if source.weight is not None]
        if weighted and self.mix.rows is None:
            raise ValueError(f"sources.{weighted[0]}.weight needs mix.rows, the total to share out")
        trained = {name for names in self.dpo.rounds for name in names}
        for name in sorted(trained | set(self.dpo.held_out)):
            if name not in self.preferences:
                raise ValueError(f"dpo names '{name}', which is not in preferences")
        if both := sorted(trained & set(self.dpo.held_out)):
            raise ValueError(f"dpo.held_out: '{both[0]}' is trained on in a round")
        known = {"average", *self.evaluation.benchmarks}
        for gate in self.gates:
            if gate.score not in known:
                raise ValueError(f"gates: '{gate.score}' is not one of {', '.join(sorted(known))}")
        return self
