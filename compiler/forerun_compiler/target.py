"""The target: a Hugging Face causal language model, loaded and traced to a dialect graph, whatever its architecture.

There is no list of architectures here: whatever reaches our attention, masks and experts in a form that they know is
traced, and the rest is refused with the model, the feature and the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from forerun_compiler import graph, interface, rope, tracing
from forerun_compiler.errors import CheckpointError, ForerunError, TraceError
from forerun_compiler.traced_model import PREFIX, TracedModel

_ATTENTION = frozenset({"full_attention", "sliding_attention"})
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class Target:
    """A loaded target: the model in float32 and eval mode, and the folder that its files lie in."""

    model: Any
    folder: Path
    source: str

    @property
    def architecture(self) -> str:
        """The model's class, for example `Qwen3ForCausalLM`."""
        return type(self.model).__name__

    @property
    def hidden_size(self) -> int:
        """E."""
        return int(self.model.config.hidden_size)

    @property
    def layers(self) -> int:
        """L."""
        return int(self.model.config.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits; a tokenizer may know fewer tokens."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, from the generation configuration where there is one."""
        for config in (self.model.generation_config, self.model.config):
            found = getattr(config, "eos_token_id", None)
            if found is not None:
                return tuple(found) if isinstance(found, (list, tuple)) else (int(found),)
        return ()

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, or None."""
        found = getattr(self.model.config, "bos_token_id", None)
        return None if found is None else int(found)


def load_target(source: str | Path) -> Target:
    """Load a causal language model from a local folder or by its name on the Hugging Face hub.

    Weights are read from safetensors only, converted to float32, and no code of the checkpoint runs.

    Raises:
        CheckpointError: the checkpoint is missing, cannot be read, or its weights are not exactly the model's.
        TraceError: a kind of model that is refused whatever its weights are.
    """
    import transformers

    folder = _checkpoint_folder(str(source))
    with _as_checkpoint_error(str(source)):
        config = transformers.AutoConfig.from_pretrained(folder)
    _check_config(config, str(source))
    with _as_checkpoint_error(str(source)), _no_progress_bars():
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(str(name) for name in report.get(problem, ())):
            raise CheckpointError(
                f"{source}: the weights do not fit {type(model).__name__}: {len(names)} {problem.replace('_', ' ')}, "
                f"first {', '.join(names[:3])}; is the checkpoint complete, and of this architecture?"
            )
    return Target(model.eval(), folder, str(source))


def _checkpoint_folder(source: str) -> Path:
    """Return the local folder of a checkpoint, downloaded when `source` is a name on the hub."""
    import huggingface_hub

    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{source}: the folder has no config.json; is it a Hugging Face checkpoint?")
        return folder
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source}: no such folder, and not a name on the hub (those read OWNER/NAME)")
    with _as_checkpoint_error(source):
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=_FILES))


@contextlib.contextmanager
def _as_checkpoint_error(source: str) -> Iterator[None]:
    try:
        yield
    except ForerunError:
        raise
    except Exception as error:  # hub, network, json, safetensors and transformers have no common class
        text = " ".join(str(error).split())[:400]
        raise CheckpointError(f"{source}: cannot load the checkpoint: {type(error).__name__}: {text}") from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' own bars out of the toolchain's output."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_config(config: Any, source: str) -> None:
    """Refuse before any weight is read what cannot be traced whatever the weights are."""
    kind = f"{source} ({config.model_type})"
    if getattr(config, "quantization_config", None) is not None:
        method = dict(config.quantization_config).get("quant_method", "unknown")
        interface.refuse(kind, f"a checkpoint quantized with {method}", "forerun quantizes itself; use the original")
    if getattr(config, "is_encoder_decoder", False):
        interface.refuse(kind, "an encoder-decoder model", "only decoders that continue a text are supported")
    if config.get_text_config() is not config:
        interface.refuse(kind, "a multimodal model", "use the checkpoint of its language model alone")
    types = getattr(config, "layer_types", None) or ()
    if other := sorted(set(types) - _ATTENTION):
        interface.refuse(
            kind, f"layers of type {', '.join(other)}", "only attention with a key-value cache is supported"
        )


def trace_target(target: Target, taps: Sequence[int], cache_rows: int) -> ir.Model:
    """Trace the target to a dialect graph.

    Inputs: tokens int64 [1,T], position int64 [1] (tokens in the cache), logit_rows int64 [R] (rows of T), and for each
    layer i target.{i}.k, target.{i}.v float32 [1,G,C,D]. Outputs: logits float32 [1,R,V]; taps float32 [1,T,A*E] when
    there are taps; target.{i}.k.out, target.{i}.v.out.

    Args:
        target: the loaded model; it is left as it was.
        taps: layers, 0-based, whose outputs are concatenated in this order. A tap is what the layer returns, which is
            `hidden_states[tap + 1]` of Hugging Face except for the last layer, where that entry is normalised already.
        cache_rows: C.

    Raises:
        TraceError: names the model, the feature that cannot be traced and the reason.
    """
    model, name = target.model, f"{target.source} ({target.model.config.model_type})"
    if wrong := [tap for tap in taps if not 0 <= tap < target.layers]:
        raise TraceError(f"{name}: taps {wrong} are not layers of the model; it has the layers 0..{target.layers - 1}")
    wrapper = TracedModel(model, name, tuple(taps), cache_rows).eval()
    with interface.installed(model), rope.tabulated(model, cache_rows):
        caches = wrapper.probe()
        inputs = {
            "tokens": torch.arange(5)[None] % target.vocab_size,
            "position": torch.tensor([2]),
            "logit_rows": torch.tensor([0, 2, 4]),
        }
        for layer in range(target.layers):
            inputs[f"target.{layer}.k"], inputs[f"target.{layer}.v"] = caches.written[layer]
        outputs = [
            "logits",
            *(["taps"] if taps else []),
            *(f"{key}.out" for key in inputs if key.startswith("target.")),
        ]
        traced = tracing.export(
            wrapper, inputs, outputs, {"tokens": {1: "T"}, "logit_rows": {0: "R"}}, name=f"target {target.architecture}"
        )
    named = [str(value.name) for value in graph.all_values(traced.graph)]
    graph.rename_values(traced.graph, {name: name.removeprefix(PREFIX) for name in named if name.startswith(PREFIX)})
    return traced
