"""llama.cpp: its own server for decoding, its library for logits; both from one build.

The server's times are its own: from the end of the prompt to the last token, without HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Generated, Weights, die_with_parent, serve

_START_SECONDS, _ANSWER_SECONDS = 120.0, 600.0


class Server:
    """llama-server on a port of the loopback interface, with one slot and no reuse of prompts."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        arguments = [f"{options['build']}/bin/llama-server", *_common(options), *options["arguments"]]
        arguments += ["--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(arguments, preexec_fn=die_with_parent)
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self._process.returncode} while it started")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise RuntimeError(f"llama-server was not ready after {_START_SECONDS:.0f} s")

    def versions(self) -> dict[str, str]:
        return _versions(self._options)

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        wish = {
            "prompt": list(prompt),
            "n_predict": new_tokens,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
        }
        start = time.perf_counter()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/completion",
            json.dumps(wish).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:
            answer = json.loads(response.read())
        seconds = time.perf_counter() - start
        timings, tokens = answer["timings"], answer["tokens"]
        accepted = timings.get("draft_n_accepted")
        rounds = len(tokens) - 1 - (accepted or 0)
        passes = timings.get("draft_n") if "draft-simple" in self._options["arguments"] else 0
        return Generated(tokens, seconds, seconds - timings["predicted_ms"] / 1e3, 1, rounds, passes)

    def logits(self, text: Sequence[int]) -> Any:
        raise ValueError("the server gives no logits of a prompt")


class Library:
    """libllama through the ctypes declarations of llama-cpp-python; logits only."""

    def __init__(self, options: dict[str, Any]) -> None:
        os.environ["LLAMA_CPP_LIB_PATH"] = f"{options['build']}/bin"
        sys.path.insert(0, options["source"])
        import llama_cpp

        self._options, self._llama = options, llama_cpp.Llama(
            options["model"], n_ctx=options["capacity"], n_batch=options["capacity"], n_threads=options["threads"],
            n_threads_batch=options["threads"], logits_all=True, verbose=False,
        )  # fmt: skip

    def versions(self) -> dict[str, str]:
        return _versions(self._options)

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        raise ValueError("opened for logits")

    def logits(self, text: Sequence[int]) -> Any:
        self._llama.reset()
        self._llama.eval(list(text))
        return np.array(self._llama.scores[: len(text)])


def _common(options: dict[str, Any]) -> list[str]:
    threads = str(options["threads"])
    return [
        *("--model", options["model"], "--threads", threads, "--threads-batch", threads, "--parallel", "1"),
        *("--ctx-size", str(options["capacity"]), "--cache-ram", "0", "--no-webui", "--log-verbosity", "1"),
    ]


def _versions(options: dict[str, Any]) -> dict[str, str]:
    package = (Path(options["source"]) / "llama_cpp/__init__.py").read_text(encoding="utf-8")
    found = subprocess.run([f"{options['build']}/bin/llama-server", "--version"], capture_output=True, text=True)
    server = next(line for line in (found.stdout + found.stderr).split("\n") if "version" in line)
    return {"llama-cpp-python": package.split('__version__ = "')[1].split('"')[0], "llama.cpp": server}


def _weights(options: dict[str, Any]) -> Weights:
    """Matrices of the file; the embedding is counted because the LM head is tied to it."""
    import gguf

    draft = options["draft"]
    found = [[0, 0], [0, 0]]
    for sums, path in zip(found, (options["model"], draft), strict=True):
        for tensor in gguf.GGUFReader(Path(path)).tensors if path else ():
            if len([size for size in tensor.shape if size > 1]) == 2:
                sums[0] += int(tensor.n_bytes)
                sums[1] += int(tensor.n_elements)
    return Weights(found[0][0], found[0][1], found[1][0])


def open_model(options: dict[str, Any]) -> Server | Library:
    return Library(options) if options["for_logits"] else Server(options)


if __name__ == "__main__":
    serve(open_model)
