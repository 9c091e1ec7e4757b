"""The manifest of a bundle: what it holds, as frozen dataclasses, and its sealed JSON text.

`artifacts/README.md` describes every field. The order of the fields here is the order of the keys in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from forerun_compiler.errors import BundleError
from forerun_compiler.schemes import DENSE

FORMAT = 4
INT8_CACHE = "int8"
"""The format of caches with int8 codes and a float32 scale for each row of a head."""
FILE_NAME = "manifest.json"
SEAL_PREFIX = '  "seal": "'

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

    `taps` are 0-based layer outputs of the target (Hugging Face `hidden_states[i + 1]`);
    `cache_rows` is at least `capacity + draft_len + 1`, so that padded rows always fit; `verify_widths` are the rows
    that a decoding round may have (the anchor and its drafts, padded), ascending from 2 to draft_len + 1.
    """

    name: str
    target_architecture: str
    drafter_family: str
    vocab_size: int
    hidden_size: int
    draft_len: int
    block_size: int
    capacity: int
    cache_rows: int
    prefill_chunk: int
    verify_widths: tuple[int, ...]
    taps: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    mask_token_id: int | None


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


def render(manifest: Manifest) -> bytes:
    """The sealed UTF-8 text of manifest.json: the last line but one holds the SHA-256 of all bytes before that line."""
    text = json.dumps(asdict(manifest) | {"seal": ""}, indent=2, ensure_ascii=False, allow_nan=False)
    body = text[: text.rindex(SEAL_PREFIX)].encode()
    return body + f'{SEAL_PREFIX}{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def parse(data: bytes, where: str) -> Manifest:
    """Read manifest.json; `where` names the file in messages.

    Raises:
        BundleError: another format version, a broken seal, or a field that is missing, unknown or of a wrong type.
    """
    version = _format_of(data)
    if version is not None and version != FORMAT:
        raise BundleError(
            f"{where}: the bundle has format {version}, this forerun reads format {FORMAT}; "
            "build it again with this version, or install the version that built it"
        )
    _check_seal(data, where)
    return _validate(data, where)


def _format_of(data: bytes) -> object:
    """The format number if the text is JSON at all: a future format may be sealed in another way."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found.get("format") if isinstance(found, dict) else None


def _check_seal(data: bytes, where: str) -> None:
    start = data.rfind(SEAL_PREFIX.encode())
    if start < 0:
        raise BundleError(
            f"{where}: expected a seal in the last lines, found none: the file is cut short or was not written by "
            "forerun; build the bundle again"
        )
    expected = hashlib.sha256(data[:start]).hexdigest()
    tail = f'{SEAL_PREFIX}{expected}"\n}}\n'.encode()
    if data[start:] != tail:
        found = data[start + len(SEAL_PREFIX) :][:64].decode(errors="replace")
        raise BundleError(
            f"{where}: damaged or edited by hand: its bytes have SHA-256 {expected}, its seal says {found}; "
            "build the bundle again"
        )


def _validate(data: bytes, where: str) -> Manifest:
    from pydantic import TypeAdapter, ValidationError

    fields: dict[str, Any] = json.loads(data)
    fields.pop("seal", None)
    try:
        # validate_json, not validate_python: in strict mode only JSON may give lists for tuples.
        return TypeAdapter(Manifest).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{where}: {place}: {first['msg']}, found {first['input']!r}; "
            "the manifest is sealed, so this forerun does not know how it was written: build the bundle again"
        ) from None
