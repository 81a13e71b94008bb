"""What a training will need, before anything is started: memory of a GPU, steps, time, cost, traffic.

Arithmetic on the recipe's sizes alone, no torch. Symbols: P parameters, N processes, h hidden size, L layers, f feed-forward
size, V vocabulary, T tokens of a micro-step on one device. Bytes are bytes, GB are 1e9 of them.

A weight that is trained in mixed precision costs 16 bytes: 2 the bf16 copy that computes, 2 its gradient, 4 the fp32 master, 4 + 4
the moments of AdamW (RMSprop: 4). ZeRO-2 shares out all but the first, ZeRO-3 the first too. Without DeepSpeed, PyTorch's autocast
keeps fp32 weights and gradients and casts each weight as it is used: also 16 bytes, and 2 for the casts, none of it shared out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from med42.errors import Med42Error
from med42.recipe.derived import expected_dpo_steps, expected_sft_steps
from med42.recipe.schema import Devices, Dpo, Fraction, Frozen, NonNegative, Positive, Recipe, Sft, Shape

ACCELERATORS = Path(__file__).parent / "accelerators.yaml"
RUNTIME = 5e9  # CUDA context, NCCL's buffers, what the allocator holds in fragments
MOST_GPUS = 1024  # that are proposed


class Accelerator(Frozen):
    """What the estimates need to know of one kind of GPU."""

    memory_gb: Positive
    bf16_tflops: Positive = Field(description="dense, by the maker's data sheet")
    utilisation: Fraction = Field(description="the share of these that training is expected to reach")
    gb_a_second: Positive = Field(description="between nodes, of one GPU")
    dollars_an_hour: NonNegative


@dataclass(frozen=True)
class Part:
    """One part of a GPU's memory, in bytes, and how it comes about."""

    name: str
    size: float
    arithmetic: str


@dataclass(frozen=True)
class TrainingPlan:
    """What one training needs.

    Attributes:
        name: the stage.
        devices: what it runs on.
        parts: memory of one GPU.
        steps: optimizer steps; None where the recipe alone does not tell.
        tokens_a_step: tokens that one step passes through the model, all processes together.
        flops_a_step: floating-point operations of one step that the model itself asks for, recomputation not counted.
        traffic: bytes that each process sends a step.
    """

    name: str
    devices: Devices
    parts: tuple[Part, ...]
    steps: int | None
    tokens_a_step: int
    flops_a_step: float
    traffic: float

    @property
    def memory(self) -> float:
        """Bytes of one GPU at the peak."""
        return sum(part.size for part in self.parts)

    def seconds_a_step(self, accelerator: Accelerator) -> float:
        """Computing and sending overlap, so the slower one counts."""
        processes = self.devices.processes
        computing = self.flops_a_step / (processes * accelerator.bf16_tflops * 1e12 * accelerator.utilisation)
        return max(computing, self.traffic / (accelerator.gb_a_second * 1e9))

    def gpu_hours(self, accelerator: Accelerator) -> float | None:
        """GPUs times hours; None where the steps are not known."""
        return None if self.steps is None else self.steps * self.seconds_a_step(accelerator) * self.devices.processes / 3600


def load_accelerators(path: Path | None = None) -> dict[str, Accelerator]:
    """The table of accelerators and prices: a file of one's own, or the one that comes with the package.

    Raises:
        Med42Error: no such file, or not in its form.
    """
    path = path or ACCELERATORS
    try:
        return {str(name): Accelerator.model_validate(row) for name, row in yaml.safe_load(path.read_text()).items()}
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), "a table of accelerators", "Check the name.") from error
    except (ValidationError, yaml.YAMLError, AttributeError) as error:
        raise Med42Error(path, " ".join(str(error).split()), f"rows of {', '.join(Accelerator.model_fields)}",
                         "Mend the key that is named.") from error


def parameter_count(shape: Shape) -> int:
    """Parameters of a Llama model: embedding, layers, last norm and, where it is not tied, the head."""
    h, kv = shape.hidden_size, shape.hidden_size // shape.heads * shape.kv_heads
    layer = 2 * h * h + 2 * h * kv + 3 * h * shape.feed_forward + 2 * h
    return shape.vocabulary * h * (1 if shape.tied else 2) + shape.layers * layer + h


def plan_training(recipe: Recipe) -> list[TrainingPlan]:
    """Plans of SFT and of each DPO round.

    Raises:
        Med42Error: the recipe does not tell the base model's sizes.
    """
    shape = recipe.base.shape
    if shape is None:
        raise Med42Error("base.shape", "nothing", "the base model's sizes", f"Set base.shape to {', '.join(Shape.model_fields)}.")
    sft = recipe.sft
    plans = [plan_of("train_sft", sft, shape, expected_sft_steps(recipe), sft.batch * recipe.pack.chunk, sft.rows_per_device
                     * recipe.pack.chunk, recipe.pack.chunk)]
    for number, names in enumerate(recipe.dpo.rounds, 1):
        # A pair is two rows, each of at most max_length tokens; most are shorter, so this is what it can take.
        plans.append(plan_of(f"train_dpo-{number}", recipe.dpo, shape, expected_dpo_steps(recipe, names),
                             2 * recipe.dpo.batch * recipe.dpo.max_length, recipe.dpo.tokens_at_once, recipe.dpo.max_length))
    return plans


def plan_of(name: str, settings: Sft | Dpo, shape: Shape, steps: int | None, tokens_a_step: int, tokens: int, context: int) -> TrainingPlan:
    """The plan of one training.

    Args:
        name: the stage.
        settings: the recipe's settings of it.
        shape: the model's sizes.
        steps: optimizer steps, if they are known.
        tokens_a_step: of all processes together.
        tokens: T, of one micro-step on one device.
        context: tokens of a row.
    """
    parameters, processes, devices = parameter_count(shape), settings.devices.processes, settings.devices
    forward_backward = 6 * (parameters - (0 if shape.tied else shape.vocabulary * shape.hidden_size))
    # 2 products of context/2 x h a layer and token forward, twice as much backward: causal attention over a whole row.
    attention = 6 * shape.layers * context * shape.hidden_size
    bytes_a_weight = 2 if settings.dtype == "bfloat16" else 4
    micro_steps = settings.accumulation
    # Ring: each process sends (N-1)/N of the whole. ZeRO-3 gathers weights forward and backward and scatters gradients, each micro-step.
    whole = parameters * bytes_a_weight * (processes - 1) / processes
    traffic = whole * {"ddp": 2, "zero-2": 2 * micro_steps, "zero-3": 3 * micro_steps}[settings.sharding]
    return TrainingPlan(name, devices, tuple(_memory(settings, shape, tokens, context)), steps, tokens_a_step,
                        float(tokens_a_step * (forward_backward + attention)), traffic)


def _memory(settings: Sft | Dpo, shape: Shape, tokens: int, context: int) -> list[Part]:
    parameters, processes = parameter_count(shape), settings.devices.processes
    lora = settings.lora if isinstance(settings, Sft) else None
    trained = parameters if lora is None else _low_rank_parameters(shape, lora.rank, lora.projections)
    half, sharding = settings.dtype == "bfloat16", settings.sharding
    moments = 8 if settings.optimizer == "adamw" else 4
    if sharding == "ddp":
        states = [
            Part("weights", 4 * parameters, f"4 x {parameters:,}"),
            Part("weights cast to bf16", 2 * parameters if half else 0, f"2 x {parameters:,}, kept for one micro-step"),
            Part("gradients", 4 * trained, f"4 x {trained:,}"),
            Part("gradients in transit", 4 * trained if processes > 1 else 0, f"4 x {trained:,}, the buckets that are sent"),
            Part("optimizer", moments * trained, f"{moments} x {trained:,}"),
        ]
        layer_bytes = 0.0
    else:
        size = 2 if half else 4
        shared = f" / {processes}"
        in_place = sharding == "zero-2"
        states = [
            Part("weights", size * parameters / (1 if in_place else processes), f"{size} x {parameters:,}" + ("" if in_place else shared)),
            Part("gradients", size * trained / processes, f"{size} x {trained:,}{shared}"),
            Part("fp32 master weights", 4 * trained / processes, f"4 x {trained:,}{shared}"),
            Part("optimizer", moments * trained / processes, f"{moments} x {trained:,}{shared}"),
        ]
        layer = (parameter_count(shape) - shape.vocabulary * shape.hidden_size * (1 if shape.tied else 2)) / shape.layers
        layer_bytes = 0 if in_place else 2 * 2 * size * layer
    states = [part for part in states if part.size]
    if layer_bytes:
        states.append(Part("two gathered layers", layer_bytes, "weights and gradients of the layer at work and of the next one"))
    kept, one = shape.layers * tokens * shape.hidden_size * (2 if half else 4), activation_bytes(shape, tokens, context, settings)
    if settings.activation_checkpointing:
        activations = [Part("activations kept", kept, f"{shape.layers} layers x {tokens:,} tokens x {shape.hidden_size:,}"),
                       Part("activations of one layer", one, "computed again in the backward pass")]
    else:
        activations = [Part("activations", shape.layers * one, f"{shape.layers} layers x {one / 1e9:.2f} GB")]
    # TRL scores tiles of 4,096 positions x 32,768 tokens, each in fp32, and gathers the head's gradient in fp32.
    tile = 2 * 4 * min(tokens, 4096) * min(shape.vocabulary, 32_768)
    head = shape.vocabulary * shape.hidden_size * 4
    gathered = 2 * shape.vocabulary * shape.hidden_size * (2 if half else 4) if sharding == "zero-3" else 0
    heads = [Part("head", tile + head + gathered, f"its gradient 4 x {shape.vocabulary:,} x {shape.hidden_size:,}, one tile of scores"
                  + (", head and embedding gathered" if gathered else ""))]
    runtime = [Part("runtime", RUNTIME, "CUDA, NCCL, the allocator's fragments")] if settings.devices.gpus_per_node else []
    return [*states, *activations, *heads, *runtime]


def activation_bytes(shape: Shape, tokens: int, context: int, settings: Sft | Dpo) -> float:
    """Bytes of one layer that wait for its backward pass.

    A token, as saved tensors were counted on transformers' Llama: what each of two norms reads and what it has normalised; what goes
    into q, k, v, into o, and into gate and up; q, k, v; gate, up, silu(gate) and their product. Autocast reads and normalises in fp32
    and casts the input of each projection by itself; bf16 weights read in fp32 and normalise in bf16. SDPA repeats k and v for every
    head and keeps a row of the mask in the dtype that computes.
    """
    half, sdpa, h = settings.dtype == "bfloat16", settings.attention == "sdpa", shape.hidden_size
    size, autocast = (2 if half else 4), half and settings.sharding == "ddp"
    norms = 2 * (4 + (2 if half and not autocast else 4)) * h
    inputs = size * (6 if autocast else 3) * h
    heads = size * (h + 2 * (h if sdpa else h // shape.heads * shape.kv_heads))
    return float(tokens * (norms + inputs + heads + size * (4 * shape.feed_forward + (context if sdpa else 0))))


def _low_rank_parameters(shape: Shape, rank: int, projections: list[str]) -> int:
    h, f, kv = shape.hidden_size, shape.feed_forward, shape.hidden_size // shape.heads * shape.kv_heads
    sides = {"q_proj": h + h, "k_proj": h + kv, "v_proj": h + kv, "o_proj": h + h, "gate_proj": h + f, "up_proj": h + f, "down_proj": f + h}
    return shape.layers * rank * sum(sides.get(name, 0) for name in projections)


def what_would_fit(recipe: Recipe, name: str, accelerator: Accelerator) -> str:
    """The least change that brings a training into the memory of a GPU: in words, with the keys to set.

    Args:
        recipe: the recipe whose training does not fit.
        name: the training, as its plan calls it.
        accelerator: whose memory.
    """
    settings, key = (recipe.sft, "sft") if name == "train_sft" else (recipe.dpo, "dpo")
    at_once = "rows_per_device" if isinstance(settings, Sft) else "pairs_per_device"
    tokens = recipe.pack.chunk if isinstance(settings, Sft) else 2 * recipe.dpo.max_length
    context = recipe.pack.chunk if isinstance(settings, Sft) else recipe.dpo.max_length
    saving = {"sharding": "zero-3", "activation_checkpointing": True, at_once: 1}
    shape = recipe.base.shape
    assert shape is not None

    def fits(processes: int) -> bool:
        devices = settings.devices.model_copy(update={"nodes": 1, "gpus_per_node": processes})
        changed = settings.model_copy(update={**saving, "devices": devices})
        return sum(part.size for part in _memory(changed, shape, tokens, context)) <= accelerator.memory_gb * 1e9

    least = next((processes for processes in range(1, MOST_GPUS + 1) if fits(processes)), None)
    changes = ", ".join(f"{key}.{name}={str(value).lower()}" for name, value in saving.items())
    if least is None:
        return f"no number of these GPUs up to {MOST_GPUS:,} holds it, even with {changes}"
    reaching = [str(number) for number in range(least, settings.batch + 1) if settings.batch % number == 0]
    batch = f"{key}.batch {settings.batch} is reached with {', '.join(reaching)}" if reaching else f"but {key}.batch is {settings.batch}"
    return f"ZeRO-3 on {least} or more of these GPUs would hold it ({changes}); {batch}"
