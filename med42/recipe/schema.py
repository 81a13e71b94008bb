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
    checkpoint_bucket: Annotated[str, Field(pattern=r"^(gs://[^/]+(/.*)?)?$")] = Field(
        default="", description="gs://bucket/folder that keeps the checkpoints too, for disks that a lost node takes with it"
    )
    tensorboard: bool = Field(default=False, description="whether files for TensorBoard are written below the store")
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


class LocalSampler(Frozen):
    """Answers are generated in the stage's own process, on its GPU where it has one."""

    kind: Literal["transformers"]
    batch: PositiveInt = Field(default=16, description="prompts at once; the answers drawn depend on it")


WHERE_AND_HOW_FAST = {"url", "concurrency", "at_once", "timeout", "attempts", "wait"}  # of a server; these change no answer


class CompletionsServer(Frozen):
    """A server that speaks OpenAI's completions, as vLLM's does."""

    url: Annotated[str, Field(pattern=r"^https?://[^/@]+(/[^@]*)?$")] = Field(
        description="up to the version, as http://host:8000/v1; no password, since a recipe is kept")
    model: str = Field(description="what the server calls it")
    timeout: Positive = Field(default=120.0, description="seconds that one request may take")
    attempts: PositiveInt = Field(default=6, description="of one request, before the stage fails")
    wait: Positive = Field(default=1.0, description="seconds before the second attempt, doubled each time, unless the server names a time")


class ServerSampler(CompletionsServer):
    """Answers come from a server, which serves the round's model.

    In `url` and `model`, {round} stands for the number of the round whose pairs are made: it starts from the model before.
    """

    kind: Literal["server"]
    concurrency: PositiveInt = Field(default=8, description="requests at once")


class RewardModel(Frozen):
    """A model that scores answers: a sequence classifier with one output, or a ranker of pairs in PairRM's layout."""

    kind: Literal["model", "pair_ranker"]
    folder: str = Field(description="looked up in the run's data root: safetensors, tokenizer; a classifier's chat template")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class RewardOverlap(Frozen):
    """No model: words in common with the published chosen answer, less those with the rejected one (F1)."""

    kind: Literal["overlap"]


class OnPolicy(Frozen):
    """Each round is trained on answers of the model that it starts from, to the prompts of the round's sets."""

    answers: int = Field(default=5, ge=2, description="a prompt")
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: PositiveInt = Field(default=512, description="longest answer")
    sampler: Annotated[LocalSampler | ServerSampler, Field(discriminator="kind")] = LocalSampler(kind="transformers")
    reward: Annotated[RewardModel | RewardOverlap, Field(discriminator="kind")]
    least_margin: NonNegative = Field(default=0.0, description="best and worst answers that are no further apart are a tie")


class Stop(Frozen):
    """When the rounds that follow are not trained: the last one brought too little on the held-out pairs."""

    measure: Literal["margin", "accuracy"] = Field(
        description="of a round's model over the one it started from: mean margin, or share of pairs with a margin above 0 (win rate)"
    )
    at_least: float = Field(description="a round that brings less is the last one")


class Dpo(Optimizer, Compute):
    """One or more rounds of direct preference optimisation (Table 3)."""

    rounds: list[list[Name]] = Field(description="the preference sources of each round")
    held_out: list[Name] = Field(default=[], description="preference sources to measure on, in no round")
    beta: Positive
    loss: Literal["sigmoid", "sigmoid_norm", "ipo", "robust"] = Field(
        default="sigmoid", description="sigmoid_norm and ipo go by the mean of an answer's tokens; ipo's beta is its tau"
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        default=0.0, description="with robust: share of pairs whose answers are thought to be swapped"
    )
    sft_weight: NonNegative = Field(default=0.0, description="weight of the chosen answers' SFT loss, which is added")
    forward: Literal["shared-prompt", "trl"] = Field(
        default="shared-prompt", description="pairs in packed rows, each prompt computed once; or TRL's own padded rows"
    )
    epochs: Positive
    steps: NonNegativeInt | None = None
    batch: PositiveInt = Field(description="pairs one optimizer step sees, over all processes")
    pairs_per_device: PositiveInt
    max_length: PositiveInt
    row_tokens: PositiveInt | None = Field(
        default=None, description="most tokens of a packed row: a device's pairs are computed in as few rows as that allows"
    )
    on_policy: OnPolicy | None = Field(default=None, description="absent: the published answers are trained on, as in the paper")
    stop: Stop | None = Field(default=None, description="absent: all rounds are trained, as in the paper")
    samples: NonNegativeInt = Field(default=8, description="prompts that the models before and after a round answer, for its page")
    sample_tokens: PositiveInt = Field(default=128, description="longest of these answers")
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _stopping_has_a_measure(self) -> Dpo:
        if self.stop and not self.held_out:
            raise ValueError("stop needs held_out, the pairs that it is measured on")
        return self

    @model_validator(mode="after")
    def _batch_is_reachable(self) -> Dpo:
        _micro_steps(self.batch, self.devices, self.pairs_per_device, "pairs_per_device")
        return self

    @model_validator(mode="after")
    def _a_row_holds_a_pair(self) -> Dpo:
        if self.row_tokens and (self.forward == "trl" or self.row_tokens < 2 * self.max_length):
            raise ValueError(f"row_tokens {self.row_tokens} with forward '{self.forward}' and max_length {self.max_length}: "
                             f"needs forward 'shared-prompt' and at least 2 x max_length = {2 * self.max_length}, the longest pair")
        return self

    @property
    def tokens_at_once(self) -> int:
        """Most tokens that a device computes at once: of all its pairs, or of one packed row."""
        return min(2 * self.pairs_per_device * self.max_length, self.row_tokens or 2 * self.pairs_per_device * self.max_length)

    @model_validator(mode="after")
    def _smoothing_has_its_loss(self) -> Dpo:
        if bool(self.label_smoothing) != (self.loss == "robust"):
            raise ValueError(f"label_smoothing {self.label_smoothing:g} with loss '{self.loss}': robust needs one, no other loss has one")
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
    rows: PositiveInt | None = Field(default=None, description="questions that it must give, before any limit; others stop the run")
    rows_root: Sha256 | None = Field(default=None, description="Merkle root of the digests of these questions")


AnswerForm = Literal["letter_and_text", "text", "letter"]
STOCK = ("mmlu", "medmcqa", "medqa", "pubmedqa", "toxigen")  # families that lm-eval has a task of its own for, zero-shot


class ServerScorer(CompletionsServer):
    """Log-likelihoods come from a server that echoes a prompt with its log-probabilities, through lm-eval's `local-completions`.

    In `url` and `model`, {label} stands for what the model that is scored is called: `base`, `sft`, `dpo-1`.
    """

    at_once: PositiveInt = Field(default=32, description="prompts in one request")
    checked: NonNegativeInt = Field(
        default=2, description="questions scored by the model's own weights too, on this machine's processor; 0 takes the server's word"
    )
    tolerance: Positive = Field(
        default=0.05, description="nats a token by which the server and the weights may differ over these questions"
    )


class Evaluation(Frozen):
    """The protocol: full-answer log-likelihood, zero-shot, chat template applied (section 3)."""

    benchmarks: dict[Name, Benchmark]
    answer: AnswerForm = Field(default="letter_and_text", description="what counts as the answer; it decides the score")
    normalisation: Literal["none", "tokens", "bytes"] = Field(
        default="none", description="what an answer's log-likelihood is divided by before the answers are compared"
    )
    forms: list[AnswerForm] = Field(default=["letter_and_text", "text", "letter"], description="forms that are scored and reported")
    stock: list[Name] = Field(
        default=[], description="benchmarks that lm-eval's own task asks too, for comparison: of the families " + ", ".join(STOCK)
    )
    generative: list[Name] = Field(
        default=[], description="benchmarks of the families medqa and medmcqa that the model also answers in writing, step by step"
    )
    generative_tokens: PositiveInt = Field(default=1024, description="tokens that it may write")
    every_round: bool = Field(default=True, description="score each DPO round, not the last alone")
    limit: PositiveInt | None = Field(default=None, description="items a benchmark, for trials")
    tokens: PositiveInt = Field(default=16_384, description="tokens that are read at once, padding included; changes nothing but rounding")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads: PositiveInt | None = None
    devices: Devices = Devices()
    processes: PositiveInt = Field(default=1, description="copies of the model that share the questions, one a GPU; changes no score")
    server: ServerScorer | None = Field(default=None, description="absent: the model is loaded and scored in the stage itself")

    def of_scores(self) -> dict[str, Any]:
        """The keys that a model's scores depend on; those left out are of other stages' results, or change no score."""
        beside: Any = {"benchmarks": True, "every_round": True, "limit": True, "processes": True, "server": WHERE_AND_HOW_FAST}
        return self.model_dump(mode="json", exclude=beside)

    @model_validator(mode="after")
    def _the_form_that_counts_is_scored(self) -> Evaluation:
        if self.answer not in self.forms:
            raise ValueError(f"answer '{self.answer}' is not among forms ({', '.join(self.forms)})")
        return self

    @model_validator(mode="after")
    def _every_gpu_has_a_process(self) -> Evaluation:
        gpus = self.devices.gpus_per_node
        if gpus and self.processes not in (1, gpus):
            raise ValueError(f"processes {self.processes} with {gpus} GPUs; 1 lays one model over all of them, {gpus} is one copy on each")
        return self

    @model_validator(mode="after")
    def _a_server_has_the_gpus(self) -> Evaluation:
        if self.server and (self.processes > 1 or self.devices.gpus_per_node):
            raise ValueError(f"server with processes {self.processes} and {self.devices.gpus_per_node} GPUs: the server has the model and "
                             "the GPUs; set processes=1 and devices.gpus_per_node=0")
        return self

    @model_validator(mode="after")
    def _other_tasks_exist(self) -> Evaluation:
        possible = [name for name, benchmark in self.benchmarks.items() if benchmark.family in STOCK]
        if wrong := [name for name in self.stock if name not in possible]:
            raise ValueError(f"stock: '{wrong[0]}' is not one of {', '.join(possible)}")
        lettered = [name for name, benchmark in self.benchmarks.items() if benchmark.family in ("medmcqa", "medqa")]
        if wrong := [name for name in self.generative if name not in lettered]:
            raise ValueError(f"generative: '{wrong[0]}' is not one of {', '.join(lettered)}")
        return self


class Gate(Frozen):
    """One rule that the last model must meet before it is pushed.

    Differences are judged by their 95% interval (paired bootstrap over the questions).
    """

    score: Name | None = Field(default=None, description="'average' or a benchmark's name")
    check: Literal["residue", "licences"] | None = Field(
        default=None, description="instead of a score: benchmark text left in the mix; whether the licences allow the release"
    )
    of: Literal["whole", "worst_subject", "missed_hate"] = Field(
        default="whole", description="the score; that of its worst subject; the share of hateful remarks that were taken for harmless"
    )
    smallest: PositiveInt = Field(default=20, description="questions that a subject needs to be judged")
    at_least: float | None = None
    at_most: float | None = None
    not_below: Literal["base", "sft", "previous", "paper"] | None = Field(
        default=None, description="an earlier model, the last release, or the paper's gain over its base, that must not be better"
    )
    allowance: NonNegative = Field(default=0.0, description="how far below is still accepted")
    proof: Literal["not_shown_worse", "shown_not_worse"] = Field(
        default="not_shown_worse",
        description="refuse where the whole interval is below; or approve only where the whole interval is above (non-inferiority)",
    )

    @property
    def name(self) -> str:
        """What the gate is called, as `toxigen-not-below-base`."""
        what = self.check or f"{self.score}" + ("" if self.of == "whole" else f"-{self.of.replace('_', '-')}")
        rule = f"not-below-{self.not_below}" if self.not_below else "at-least" if self.at_least is not None else "at-most"
        return what if self.check else f"{what}-{rule}"

    @model_validator(mode="after")
    def _one_rule(self) -> Gate:
        if (self.score is None) == (self.check is None):
            raise ValueError("needs either 'score' or 'check'")
        if sum(rule is not None for rule in (self.at_least, self.at_most, self.not_below)) != (self.check != "licences"):
            raise ValueError("needs exactly one of 'at_least', 'at_most', 'not_below' (and none of them for 'check: licences')")
        if self.check == "residue" and self.at_most is None:
            raise ValueError("check 'residue' needs 'at_most'")
        if self.of == "missed_hate" and self.at_most is None:
            raise ValueError("of 'missed_hate' is a ceiling and needs 'at_most'")
        if self.of == "worst_subject" and (self.at_most is not None or self.not_below == "paper"):
            raise ValueError("of 'worst_subject' needs 'at_least', or 'not_below' a model of which every question is known")
        return self


class Override(Frozen):
    """A person's decision to release against gates that are not met; it stands in the recipe, the decision and the card."""

    by: str = Field(pattern=r"^\S.*\S <\S+@\S+>$", description="name and address, as Jane Doe <jane.doe@hospital.example>")
    reason: str = Field(min_length=20, description="why, for those who read it in ten years")
    gates: list[str] = Field(min_length=1, description="names of the gates, as toxigen-not-below-base; any other still holds")


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

    signed: bool | Literal["sigstore"] = Field(
        default=False, description="true: refuse to push or seal without a signing key, with which both are signed in any case; "
        "sigstore: sign both without a key, by an identity that sigstore certifies")


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
    previous_release: str | None = Field(default=None, description="folder of the last release's scores, in the run's data root")
    override: Override | None = None
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
        return self

    @model_validator(mode="after")
    def _gates_can_be_judged(self) -> Recipe:
        known, names = {"average", *self.evaluation.benchmarks}, [gate.name for gate in self.gates]
        for gate in self.gates:
            if gate.score and gate.score not in known:
                raise ValueError(f"gates: '{gate.score}' is not one of {', '.join(sorted(known))}")
            if gate.not_below == "previous" and self.previous_release is None:
                raise ValueError(f"gates: {gate.name} needs previous_release, the folder of the last release's scores; for a first release "
                                 "leave the gate out")
            if gate.not_below == "paper" and self.paper is None:
                raise ValueError(f"gates: {gate.name} needs paper, whose model it compares with")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"gates: two are called {twice[0]}; keep one")
        if self.override and (unknown := sorted(set(self.override.gates) - set(names))):
            raise ValueError(f"override.gates: '{unknown[0]}' is not one of {', '.join(names) or 'no gates'}")
        return self
