"""How fast this machine reads memory: the bound of decoding, which reads every weight once a step."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

BUFFER_BYTES = 1 << 30
"""Larger than the caches of the machines that this runs on."""
_PASSES = 5
_SOURCE = r"""
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct part { const uint64_t *from; size_t words; uint64_t sum; };

static void *read_part(void *argument) {
    struct part *part = argument;
    uint64_t sums[32] = {0};
    for (size_t at = 0; at + 32 <= part->words; at += 32)
        for (int lane = 0; lane < 32; lane++) sums[lane] += part->from[at + lane];
    for (int lane = 0; lane < 32; lane++) part->sum += sums[lane];
    return NULL;
}

/* The best of `passes` reads of `bytes` by `threads` threads, in bytes a second; 0 without memory or threads. */
double read_bandwidth(size_t bytes, int threads, int passes) {
    uint64_t *buffer = malloc(bytes);
    struct part parts[256];
    pthread_t running[256];
    double best = 0;
    if (!buffer || threads < 1 || threads > 256) { free(buffer); return 0; }
    memset(buffer, 1, bytes);
    for (int pass = 0; pass < passes; pass++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int i = 0; i < threads; i++) {
            size_t words = bytes / 8 / threads;
            parts[i] = (struct part){buffer + i * words, words, 0};
            if (pthread_create(&running[i], NULL, read_part, &parts[i])) { free(buffer); return 0; }
        }
        uint64_t sum = 0;
        for (int i = 0; i < threads; i++) { pthread_join(running[i], NULL); sum += parts[i].sum; }
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9;
        if (sum && bytes / seconds > best) best = bytes / seconds;
    }
    free(buffer);
    return best;
}
"""


def measure_bandwidth(threads: int) -> dict[str, float]:
    """{"bytes_per_s", "buffer_bytes", "threads"}: the best of a few passes.

    Raises:
        RuntimeError: no compiler, or not enough memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "bandwidth.c", Path(folder) / "bandwidth.so"
        source.write_text(_SOURCE, encoding="utf-8")
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-pthread", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"cc failed to compile the measurement of bandwidth: {done.stderr.strip()[:300]}")
        read = ctypes.CDLL(str(library)).read_bandwidth
        read.restype, read.argtypes = ctypes.c_double, (ctypes.c_size_t, ctypes.c_int, ctypes.c_int)
        found = float(read(BUFFER_BYTES, threads, _PASSES))
    if not found:
        raise RuntimeError(
            f"{BUFFER_BYTES >> 20} MiB of memory or {threads} threads cannot be had to measure bandwidth"
        )
    return {"bytes_per_s": found, "buffer_bytes": BUFFER_BYTES, "threads": threads}
