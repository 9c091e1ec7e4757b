"""The checkpoint in each peer's own format, by each peer's own converter; made once and kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from made_from import fingerprint, is_made_from, note_made_from
from noised_draft_model import as_good_as_the_drafter, make_noised
from peers_environments import run_step

_PROCESSES = Path(__file__).parent / "peer_processes"
_OPENVINO = {
    "bf16": ("--weight-format", "fp16"),
    "int8": ("--weight-format", "int8"),
    "int4-default": ("--weight-format", "int4"),
    "int4-g128-sym": ("--weight-format", "int4", "--group-size", "128", "--sym", "--ratio", "1.0"),
}
_ONNX = {"int4-b32": ("int4", 32), "int4-b128": ("int4", 128), "int8-b32": ("int8", 32)}
_DRAFT_FOLDER = "draft"
"""Where a model of ONNX Runtime GenAI has its draft model."""
DEMO_TARGET, NOISED = "demo", "noised-demo"
"""Names of the small draft models."""
_NOISED_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Checkpoints:
    """A Qwen3 target, its DSpark drafter, and the small model of the target's function; all plain checkpoints."""

    target: Path
    drafter: Path
    small: Path


class Converter:
    """Converts what is asked for, below `models`/NAME; what failed once in this run fails again without a try."""

    def __init__(self, environments: Path, models: Path, threads: int) -> None:
        self._environments, self._models, self._threads = environments.absolute(), models.absolute(), threads
        self._fingerprint = cache(fingerprint)

    def noised(self) -> Path:
        """The checkpoint of the draft model that is as good as the drafter."""
        output = self._models / NOISED / _NOISED_CHECKPOINT
        make_noised(output, as_good_as_the_drafter())
        return output

    def gguf(self, name: str, checkpoint: Path, kind: str) -> Path:
        """The checkpoint as llama.cpp's own quantization `kind`, or "bf16"; a file."""
        path = self._models / name / f"llama-{kind}.gguf"
        home = self._environments / "llama.cpp"
        if kind == "bf16":
            return self._make(path, [checkpoint], lambda staging, log: self._write_gguf(checkpoint, staging, log, []))
        base = self.gguf(name, checkpoint, "bf16")
        quantize, threads = [str(home / "build/bin/llama-quantize"), str(base)], str(self._threads)
        return self._make(path, [base], lambda staging, log: run_step([*quantize, str(staging), kind, threads], log))

    def gguf_drafter(self, name: str, checkpoints: Checkpoints) -> Path:
        """The DSpark drafter for llama.cpp, which reads memoryless Markov heads only."""
        path = self._models / name / "llama-dspark.gguf"
        target = ["--target-model-dir", str(checkpoints.target)]
        sources = [checkpoints.target, checkpoints.drafter]
        return self._make(
            path, sources, lambda staging, log: self._write_gguf(checkpoints.drafter, staging, log, target)
        )

    def openvino(self, name: str, checkpoint: Path, kind: str) -> Path:
        """A folder by optimum-intel; quantized by nncf."""
        tool = self._environments / "openvino/bin/optimum-cli"
        command = [str(tool), "export", "openvino", "--model", str(checkpoint), "--task", "text-generation-with-past"]
        path = self._models / name / f"openvino-{kind}"
        command += _OPENVINO[kind]
        return self._make(path, [checkpoint], lambda staging, log: run_step([*command, str(staging)], log))

    def onnx(self, name: str, checkpoint: Path, kind: str) -> Path:
        """A folder by ONNX Runtime GenAI's model builder."""
        precision, block = _ONNX[kind]

        def write(staging: Path, log: Path) -> None:
            self._build_onnx(checkpoint, staging, log, precision, [f"block_size={block}"])
            self._configure(staging, None)

        return self._make(self._models / name / f"onnx-{kind}", [checkpoint], write)

    def onnx_with_draft(self, name: str, target: Path, kind: str, draft: Path) -> Path:
        """The same with another such folder as its draft model; files are linked, not copied."""
        main = self.onnx(name, target, kind)

        def write(staging: Path, log: Path) -> None:
            shutil.copytree(main, staging, copy_function=os.link)
            shutil.copytree(draft, staging / _DRAFT_FOLDER, copy_function=os.link)
            self._configure(staging, draft)

        return self._make(self._models / name / f"onnx-{kind}-with-{draft.parent.name}", [main, draft], write)

    def onnx_dspark(self, name: str, checkpoints: Checkpoints) -> Path:
        """The builder's own DSpark export, asked for on a CPU."""
        taps = json.loads((checkpoints.drafter / "config.json").read_text(encoding="utf-8"))["target_layer_ids"]
        layers = ",".join(str(tap + 1) for tap in taps)
        wishes = [f"dspark_path={checkpoints.drafter}", f"aux_hidden_state_layers={layers}", "use_paged_attention=true"]
        return self._make(
            self._models / name / "onnx-dspark",
            [checkpoints.target, checkpoints.drafter],
            lambda staging, log: self._build_onnx(checkpoints.target, staging, log, "int4", wishes),
        )

    def _make(self, path: Path, sources: Sequence[Path], write: Callable[[Path, Path], None]) -> Path:
        """`path`, written in one piece by `write(staging, log)` where it is missing or made from other sources."""
        made_from = " ".join(map(self._fingerprint, sources))
        if is_made_from(path, made_from):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        staging, log = path.with_name(f".{path.name}"), path.with_name(f"{path.name}.log")
        log.unlink(missing_ok=True)
        try:
            write(staging, log)
            _remove(path)
            staging.rename(path)
            note_made_from(path, made_from)
        finally:
            _remove(staging)
        return path

    def _write_gguf(self, checkpoint: Path, staging: Path, log: Path, more: list[str]) -> None:
        """By llama.cpp's converter, with the project's torch; other packages are of llama.cpp's environment."""
        source = self._environments / "llama.cpp/source/vendor/llama.cpp"
        packages = next((self._environments / "llama.cpp/lib").glob("python*/site-packages"))
        command = [sys.executable, str(_PROCESSES / "llama_convert.py"), str(source), str(packages), str(checkpoint)]
        run_step([*command, "--outtype", "bf16", "--outfile", str(staging), *more], log)

    def _build_onnx(self, checkpoint: Path, staging: Path, log: Path, precision: str, wishes: list[str]) -> None:
        python = self._environments / "onnxruntime-genai/bin/python"
        command = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(staging)]
        command += ["-p", precision, "-e", "cpu", "-c", str(staging / "cache"), "--extra_options", *wishes]
        run_step(command, log)

    def _configure(self, folder: Path, draft: Path | None) -> None:
        """Set the threads, and add the draft model as the library's documentation says."""
        path = folder / "genai_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        if draft is not None:
            other = json.loads((draft / "genai_config.json").read_text(encoding="utf-8"))
            config["model"]["draft"] = other["model"]["decoder"] | {"filename": f"{_DRAFT_FOLDER}/model.onnx"}
        for part in ("decoder", "draft"):
            if part in config["model"]:
                config["model"][part]["session_options"]["intra_op_num_threads"] = self._threads
        path.unlink()  # it may be a link to the plain model's
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
