"""The virtual environments of the peers, with pinned versions; llama.cpp is built for the processor it runs on.

transformers needs none: it runs in the environment of the project, whose versions are pinned too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

READY = "ready.json"
LLAMA_SOURCE = "llama-cpp-python==0.3.36"
_LLAMA_FOLDER = "source/vendor/llama.cpp"
_CMAKE_OFF = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL")
_CPU_OPTIONS = {
    "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "bmi2": "BMI2", "avx512f": "AVX512", "avx512_vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "avx_vnni": "AVX_VNNI",
}  # fmt: skip


class PeerError(Exception):
    """A peer cannot be installed, converted or run; the message is the reason that the table shows."""


@dataclass(frozen=True)
class Environment:
    """Pinned `packages`; `unwanted` are ones that these declare and that break them here."""

    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


ENVIRONMENTS = {
    # A torchvision that was not built for this very torch makes transformers fail at import; text models need none.
    "openvino": Environment(
        ("openvino==2026.4.1", "openvino-genai==2026.4.1.0", "nncf==3.4.0", "optimum-intel==2.2.0", "torch==2.13.0",
         "transformers==5.5.4"),
        ("torchvision",),
    ),
    "onnxruntime-genai": Environment(
        ("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1", "onnx-ir==1.1.0", "torch==2.13.0", "transformers==5.23.0")
    ),
    "llama.cpp": Environment(
        ("numpy==2.4.6", "gguf==0.19.0", "sentencepiece==0.2.3", "typing-extensions==4.16.0", "diskcache==5.6.3",
         "jinja2==3.1.6")
    ),
}  # fmt: skip


def prepare_environment(peer: str, environments: Path) -> Path:
    """The environment's Python interpreter; made first where it is missing or was made otherwise.

    Raises:
        PeerError: a step failed; its log is beside the environment.
    """
    if peer not in ENVIRONMENTS:
        return Path(sys.executable)
    folder, environment = environments.absolute() / peer, ENVIRONMENTS[peer]
    python, flags = folder / "bin/python", llama_flags(cpu_flags()) if peer == "llama.cpp" else []
    wanted = json.dumps(asdict(environment) | {"flags": flags}, indent=2) + "\n"
    if (folder / READY).is_file() and (folder / READY).read_text(encoding="utf-8") == wanted:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.log"
    if not python.is_file():
        run_step([sys.executable, "-m", "venv", str(folder)], log)
    run_step([str(python), "-m", "pip", "install", "--quiet", *environment.packages], log)
    if environment.unwanted:
        run_step([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *environment.unwanted], log)
    if peer == "llama.cpp":
        _build_llama(folder, python, flags, log)
    (folder / READY).write_text(wanted, encoding="utf-8")
    return python


def cpu_flags() -> frozenset[str]:
    """What the first processor can do, as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n"):
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def llama_flags(found: frozenset[str]) -> list[str]:
    """CMake options: everything the processor has; its matrix units are left out, with them llama.cpp crashes."""
    if "amx_int8" not in found:
        return ["-DGGML_NATIVE=ON"]
    known = [f"-DGGML_{option}={'ON' if name in found else 'OFF'}" for name, option in _CPU_OPTIONS.items()]
    return ["-DGGML_NATIVE=OFF", *known]


def _build_llama(folder: Path, python: Path, flags: list[str], log: Path) -> None:
    """The server, the quantizer and the library from the source that the Python package carries."""
    source, build = folder / _LLAMA_FOLDER, folder / "build"
    if not source.is_dir():
        loaded = folder / "download"
        run_step(
            [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", str(loaded), LLAMA_SOURCE], log,
        )  # fmt: skip
        unpacked = folder / "unpacked"
        shutil.unpack_archive(next(loaded.glob("*.tar.gz")), unpacked)
        next(unpacked.iterdir()).rename(folder / "source")
    off = [f"-D{name}=OFF" for name in _CMAKE_OFF]
    run_step(
        ["cmake", "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON",
         "-DGGML_CPU_REPACK=ON", *flags, *off], log,
    )  # fmt: skip
    cores = str(len(os.sched_getaffinity(0)))
    run_step(["cmake", "--build", str(build), "--parallel", cores, "--target", "llama-server", "llama-quantize"], log)


def run_step(command: list[str], log: Path, variables: dict[str, str] | None = None) -> None:
    """Run to the end, output appended to `log`.

    Raises:
        PeerError: it failed; says with what, and the last line that it printed.
    """
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=os.environ | (variables or {})
            )
        except OSError as error:
            raise PeerError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
        raise PeerError(lines[-1][:300])
