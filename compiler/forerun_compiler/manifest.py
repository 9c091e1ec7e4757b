"""The manifest of a bundle: what it holds, as frozen dataclasses; `manifest_text` has them as sealed JSON.

`artifacts/README.md` describes every field. The order of the fields here is the order of the keys in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from forerun_compiler.schemes import DENSE

FORMAT = 5
INT8_CACHE = "int8"
"""The format of caches with int8 codes and a float32 scale for each row of a head."""
FILE_NAME = "manifest.json"

Dim = int | str  # a fixed size, or the name of one that a run chooses ("T")
DType = Literal["int64", "float32", "float16", "bfloat16", "int8"]
DTYPE_BYTES: Mapping[DType, int] = {"int64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
ComputeType = Literal["float32", "float16", "bfloat16"]
Guarantee = Literal["bit-identical", "equal-up-to-ties", "none"]
ProofReference = Literal["Hugging Face", "the bundle's own target graph", "none"]


class _Strict:
    """A manifest with a key that this version does not know is refused, not half understood."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads a plain dict


@dataclass(frozen=True)
class FileEntry(_Strict):
    """One file of the bundle: its size in bytes and the SHA-256 of its bytes, in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ModelFacts(_Strict):
    """What the runtime and people need to know of the model; counts are tokens unless said otherwise.

    `lookup_len` tokens at most are copied from the text as a draft where its last `lookup_match` tokens occurred
    before; both 0 without prompt lookup. `taps` are 0-based layer outputs of the target (Hugging Face
    `hidden_states[i + 1]`); `cache_rows` is at least `capacity + verify_len + 1`, so that padded rows always fit;
    `verify_widths` are the rows that a decoding round may have (the anchor and its drafts, padded), ascending from 2
    to verify_len + 1, draft_len + 1 among them.
    """

    name: str
    target_architecture: str
    drafter_family: str
    vocab_size: int
    hidden_size: int
    draft_len: int
    lookup_len: int
    lookup_match: int
    block_size: int
    capacity: int
    cache_rows: int
    prefill_chunk: int
    verify_widths: tuple[int, ...]
    taps: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    mask_token_id: int | None

    @property
    def verify_len(self) -> int:
        """M, the most draft tokens that a round verifies, the drafter's or looked up."""
        return max(self.draft_len, self.lookup_len)


@dataclass(frozen=True)
class TensorInterface(_Strict):
    """A graph input or output."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class StateInterface(_Strict):
    """A graph input that the output named `output` replaces; both may be bound to one buffer."""

    name: str
    output: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class GraphInterface(_Strict):
    """One graph file: its inputs and outputs without the states, and the states."""

    file: str
    inputs: tuple[TensorInterface, ...]
    outputs: tuple[TensorInterface, ...]
    states: tuple[StateInterface, ...]


@dataclass(frozen=True)
class Override(_Strict):
    """The scheme of the layers whose names match a pattern (shell style), whatever their part says."""

    layers: str
    scheme: str


@dataclass(frozen=True)
class Precision(_Strict):
    """The quantization scheme of each part; `drafter_lm_head` is the LM head as the drafter multiplies with it.

    Of several overrides that match a layer the last one counts.
    """

    target: str = "float32"
    drafter: str = "float32"
    lm_head: str = "float32"
    drafter_lm_head: str = "float32"
    cache: str = "float32"
    overrides: tuple[Override, ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme that a linear layer may have, each once."""
        parts = (self.target, self.drafter, self.lm_head, self.drafter_lm_head)
        return tuple(dict.fromkeys((*parts, *(override.scheme for override in self.overrides))))

    @property
    def is_quantized(self) -> bool:
        """Whether any linear layer may be anything but float32."""
        return any(scheme != DENSE for scheme in self.schemes)


@dataclass(frozen=True)
class PlanSummary(_Strict):
    """What a built engine runs while decoding, as read from it.

    `kernels` counts launches, `products` matrix products by their operands ("fp8", "float16 x int4"). `device_memory`
    are bytes beside weights and states; `capturable`: a CUDA graph can hold a run of it.
    """

    kernels: int
    products: Mapping[str, int]
    device_memory: int
    capturable: bool


@dataclass(frozen=True)
class BuiltEngine(_Strict):
    """Engine files in `folder`, NAME.engine for each graph, and what each holds; `library` is its version.

    `compute_capability` are the devices that it was built for.
    """

    folder: str
    library: str
    compute_capability: tuple[str, ...]
    plans: Mapping[str, PlanSummary]


@dataclass(frozen=True)
class EngineTarget(_Strict):
    """An execution library and the kind of device that it runs on.

    `kernels` are forerun's own operators or the library's stock ones. `emulate` lets the library compute schemes that
    it has no kernels for: the same numbers, slowly. TensorRT's engines are built for `compute_capability` ("8.9"),
    compute in `dtype` where a scheme says nothing else, and may have a `precision` of their own; `graphs` are what
    they are built from, `built` the engines. ONNX Runtime on the CPU runs the manifest's own graphs.
    """

    backend: str = "onnxruntime"
    device: str = "cpu"
    kernels: str = "forerun"
    emulate: bool = False
    compute_capability: tuple[str, ...] = ()
    dtype: ComputeType = "float32"
    precision: Precision | None = None
    graphs: Mapping[str, GraphInterface] = field(default_factory=dict)
    built: tuple[BuiltEngine, ...] = ()


@dataclass(frozen=True)
class Source(_Strict):
    """The checkpoints that the bundle was built from: hub names, or folders as the recipe gave them."""

    target: str
    drafter: str


@dataclass(frozen=True)
class CostRow(_Strict):
    """Times of one machine in microseconds: one plain step, and one round by the number of rows it verifies."""

    fingerprint: str
    plain_us: float
    round_us: Mapping[str, float]


@dataclass(frozen=True)
class Proof(_Strict):
    """What `build-engine verify` found; `artifacts/README.md` defines each count. Ties are counted apart."""

    lossless: bool
    guarantee: Guarantee
    reference: ProofReference
    greedy_prompts: int
    greedy_tokens: int
    prompts_identical: int
    plain_prompts: int
    plain_identical: int
    plain_ties: int
    hf_prompts: int
    hf_identical: int
    hf_ties: int
    graph_prompts: int
    graph_identical: int
    graph_ties: int
    tie_tolerance: float
    chi_square_p: float | None
    chi_square_tests: int
    chi_square_samples: int
    kl_to_source: float | None
    failures: tuple[str, ...]
    not_run: tuple[str, ...]
    planned_prompts: int = 0
    planned_identical: int = 0
    planned_ties: int = 0
    lookup_prompts: int = 0
    lookup_identical: int = 0
    lookup_ties: int = 0
    lookup_rounds: int = 0
    lookup_sampled_rounds: int = 0


@dataclass(frozen=True)
class Manifest(_Strict):
    """All of manifest.json but its seal."""

    format: int
    forerun: str
    created: str
    files: Mapping[str, FileEntry]
    model: ModelFacts
    graphs: Mapping[str, GraphInterface]
    precision: Precision
    engines: tuple[EngineTarget, ...]
    recipe: str
    source: Source
    cost: tuple[CostRow, ...]
    proof: Proof | None
