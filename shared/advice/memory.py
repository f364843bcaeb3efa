"""How much memory a training takes on each card, by part: pure arithmetic on a model's shape, nothing measured here.

Model states follow ZeRO (arXiv 1910.02054) and DeepSpeed's own estimators; activations are what autograd keeps of
transformers' blocks (counted with saved-tensor hooks), linear in the length but for the score matrices of eager
attention; full checkpointing keeps one input a layer (arXiv 2205.05198); logits are counted in bytes by what the loss
keeps. tests/unit/test_memory.py compares all of it with published measurements; context, fragmentation and the bytes of
DeepSpeed's step were chosen on some of them (`calibrates`), the others only check. What it does not model: tensor and
sequence parallelism, activation offloading, optimizers that step inside the backward pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shared.advice.shapes import Shape

GIB = 1024**3
#: CUDA context and libraries (0.3 to 2 GiB are quoted), and the share that the allocator cannot use.
CONTEXT_BYTES = 1.2e9
FRAGMENTATION = 0.05
#: NCCL's buffers with several processes, and DeepSpeed's buckets.
COMMUNICATION_BYTES = 0.6e9
BUCKET_BYTES = 0.4e9
#: `sub_group_size` of the presets: ZeRO-3 steps over so many weights at a time.
SUB_GROUP = 1.0e9
#: `stage3_max_live_parameters` of the presets, weights that ZeRO-3 keeps gathered.
LIVE_WEIGHTS = 1.0e9
#: Bytes that the step of a float32 Adam needs beside its state for each weight that it holds.
STEP_BYTES = 4
#: Bytes of one attention score that eager attention keeps for the backward pass, and has at once there.
SCORE_KEPT = {2: 6.0, 4: 4.0}
SCORE_PEAK = {2: 14.8, 4: 16.0}
#: Pinned copies and staging, as DeepSpeed's estimators have it.
HOST_FACTOR = 1.5
#: Python, libraries and the CUDA driver of one process, on the host.
HOST_PROCESS_BYTES = 4.0e9
#: Largest file of a model that is in memory while it is loaded.
HOST_FILE_BYTES = 5.0e9
OFFLOADS = ("none", "optimizer", "optimizer+params")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Bytes of each weight that is trained."""

    weight: float
    gradient: float
    optimizer: float
    #: Half-precision copy that autocast makes for the matrix products.
    cast: float = 0
    #: Of the optimizer's step, beside its state.
    step: float = STEP_BYTES


#: Float32 weights, computed in half precision by autocast; all in bfloat16; DeepSpeed's engine (16-bit weights, its own
#: float32 copies, and gradients in float32 for the step); all in float32.
MIXED = Trained(weight=4, gradient=4, optimizer=8, cast=2)
PURE = Trained(weight=2, gradient=2, optimizer=4, step=2)
ENGINE = Trained(weight=2, gradient=2, optimizer=12, step=2 * STEP_BYTES)
FLOAT32 = Trained(weight=4, gradient=4, optimizer=8)


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that decides the memory of one process of a training."""

    shape: Shape
    num_trained: int
    trained: Trained
    #: Weights of the base that are not trained, and bytes of each: in linear layers of blocks, and elsewhere.
    num_frozen: int
    frozen_bytes: float = 2
    outside_bytes: float = 2
    #: Bytes of one activation.
    element: int = 2
    #: Sequences of one step on one device, and their length.
    rows: int = 1
    length: int = 1024
    #: Share of the tokens whose logits are computed, and bytes that the loss keeps of one logit.
    learned: float = 1.0
    logit_bytes: float = 6
    is_eager: bool = False
    checkpointing: bool = True
    #: Whether fused kernels compute norms and MLP.
    is_fused: bool = False
    #: Whether dropout in adapters keeps copies of their inputs.
    has_dropout: bool = False
    #: Whether keys and values are repeated for every query head that shares them.
    repeats_keys: bool = False
    #: Rank of adapters on every linear layer.
    rank: int = 0
    #: Whether gradients stay while the next small step is computed.
    accumulates: bool = True
    num_devices: int = 1
    #: None: no DeepSpeed.
    zero: int | None = None
    offload: str = "none"
    #: Weights of further models that stay whole or are shared like the base (reference, reward), bytes together.
    other_bytes: float = 0
    #: False: as torch counts its own tensors, without context and fragmentation.
    has_overhead: bool = True

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def shares_weights(self) -> int:
        return self.num_devices if self.zero == 3 else 1


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one card at the moment when it is fullest."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    #: Context, fragmentation, communication, gathered weights, the optimizer's step.
    framework: float

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))

    def gib(self) -> dict[str, float]:
        parts = {name: round(value / GIB, 2) for name, value in asdict(self).items()}
        return {**parts, "total": round(self.total / GIB, 2)}


def estimate(training: Training) -> Memory:
    weights, optimizer = _weights(training), _optimizer(training)
    activations, logits = _activations(training)
    live = activations + logits
    gradients = _gradients(training)
    if not training.accumulates:
        gradients = max(gradients - live, 0.0)  # they come as activations go
    step = _step(training)
    buffers = _buffers(training) + max(step - live, 0.0)
    used = weights + optimizer + gradients + live + buffers
    overhead = CONTEXT_BYTES + FRAGMENTATION * used if training.has_overhead else 0.0
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        framework=buffers + overhead,
    )


def _weights(t: Training) -> float:
    if t.zero == 3 and t.offload == "optimizer+params":
        return 0.0
    return (base_bytes(t) + t.other_bytes + t.num_trained * t.trained.weight) / t.shares_weights


def base_bytes(t: Training) -> float:
    """The frozen weights in the formats in which they are loaded."""
    linear = min(t.shape.num_linear, t.num_frozen)
    return linear * t.frozen_bytes + (t.num_frozen - linear) * t.outside_bytes


def _gradients(t: Training) -> float:
    if t.zero and t.offload != "none":
        return 0.0  # they follow the optimizer, bucket by bucket
    whole = t.num_trained * t.trained.gradient
    return whole / t.num_devices if (t.zero or 0) >= 2 else whole


def _optimizer(t: Training) -> float:
    if t.zero and t.offload != "none":
        return 0.0
    whole = t.num_trained * t.trained.optimizer
    return whole / t.num_devices if t.zero else whole


def _step(t: Training) -> float:
    if t.zero and t.offload != "none":
        return 0.0
    stepped = t.num_trained / t.num_devices if t.zero else t.num_trained
    return t.trained.step * (min(stepped, SUB_GROUP) if t.zero == 3 else stepped)


def _buffers(t: Training) -> float:
    """Communication, buckets of gradients between processes, what ZeRO-3 gathers, copies that autocast makes."""
    made = t.num_trained * t.trained.cast
    if t.num_devices > 1:
        made += COMMUNICATION_BYTES
    if t.zero:
        made += BUCKET_BYTES
    if t.num_devices > 1 and not t.zero:
        made += t.num_trained * t.trained.gradient  # DistributedDataParallel's buckets
    if t.zero == 3:
        live = min(LIVE_WEIGHTS, t.shape.num_weights)
        made += 4 * t.shape.largest_module + 2 * live
    return made


def _activations(t: Training) -> tuple[float, float]:
    """Of all layers, and of the logits; what is only there while one layer is worked on counts where it is more."""
    logits = t.learned * t.tokens * t.shape.vocab * t.logit_bytes
    kept, working = kept_bytes(t), working_bytes(t)
    if t.checkpointing:
        return t.shape.num_layers * t.tokens * t.shape.hidden * t.element + max(working - logits, 0.0), logits
    return t.shape.num_layers * kept + max(working - kept - logits, 0.0), logits


def kept_bytes(t: Training) -> float:
    """What one layer keeps for its backward pass. Counted on transformers 5.17 in bfloat16, bytes a token: Llama
    with adapters 12 h + 4 ad + 4 kd + 8 f, or 12 h + 8 ad + 8 f where keys are repeated; all trained, 16 h + 4 ad +
    4 kd + 8 f; dropout in the adapters adds 16 h + 4 ad + 2 f, rank r adds 14 r; norms of queries and keys 4 ad + 4 kd;
    mixtures keep 14 h and 12 f."""
    s = t.shape
    heads, keys = s.num_heads * s.head_size, s.num_kv_heads * s.head_size
    widths = (4 if t.is_fused else 6) * s.hidden + (4 * heads if t.repeats_keys else 2 * heads + 2 * keys)
    widths += _inner_widths(t) * s.inner + 7 * t.rank
    widths += 2 * (heads + keys) if s.norms_queries else 0
    if t.num_trained > s.num_weights // 2:
        widths += 2 * s.hidden  # norms that are trained keep their inputs too
    if t.has_dropout:
        widths += 8 * s.hidden + 2 * heads + s.inner
    return t.element * t.tokens * widths + _scores(t, SCORE_KEPT)


def _inner_widths(t: Training) -> int:
    if t.shape.active_share < 1:
        return 6
    return 3 if t.is_fused or not t.shape.is_gated else 4


def working_bytes(t: Training) -> float:
    """What there is of one layer at once in its backward pass: what it kept, and the gradients beside it."""
    s = t.shape
    gradients = t.element * t.tokens * (2 * s.hidden + (3 if s.is_gated else 2) * s.inner)
    return kept_bytes(t) - _scores(t, SCORE_KEPT) + gradients + _scores(t, SCORE_PEAK)


def _scores(t: Training, score_bytes: dict[int, float]) -> float:
    if not t.is_eager:
        return 0.0
    return score_bytes[t.element] * t.rows * t.shape.num_heads * t.length**2


def host_bytes(t: Training, processes_per_host: int) -> tuple[float, float]:
    """RAM of one machine while the model is loaded, and while it trains with what is offloaded."""
    files = base_bytes(t) + t.other_bytes + t.num_trained * (t.trained.weight if t.num_frozen == 0 else 0)
    loading = HOST_FILE_BYTES if t.zero == 3 else files
    processes = processes_per_host * HOST_PROCESS_BYTES
    held = 0.0
    if t.zero and t.offload != "none":
        held = 16 * t.num_trained * HOST_FACTOR
    if t.zero == 3 and t.offload == "optimizer+params":
        held += 2 * t.shape.num_weights * HOST_FACTOR
    share = processes_per_host / t.num_devices
    return processes + processes_per_host * loading, processes + held * share
