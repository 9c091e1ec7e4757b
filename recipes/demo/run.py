"""What both trainings share: the optimizers, the schedule, and a loop that shows, logs, saves and resumes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

Entry = dict[str, Any]  # one line of the log


def optimizers(model: nn.Module, rate: float, tables: tuple[str, ...]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for vectors and for look-up tables; `tables` are parts of the tables' names."""
    hidden, rest = [], []
    for name, parameter in model.named_parameters():
        table = any(part in name for part in tables)
        (rest if table or parameter.ndim != 2 or min(parameter.shape) == 1 else hidden).append(parameter)
    return [
        torch.optim.Muon(hidden, lr=rate, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate_at(step: int, steps: int, warmup: int, fall: float) -> float:
    """Share of the full rate: warm-up, plateau, then a linear fall over the last share `fall` of the run."""
    return min((step + 1) / warmup, 1.0, max(0.0, (steps - step) / (fall * steps)))


@dataclass(frozen=True)
class Run:
    """One training: what is trained, and where its state and its log go."""

    name: str
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    state: Path
    log: Path

    def resume(self) -> int:
        """Load the saved state, if there is one; returns the next step."""
        for folder in (self.state.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.state.exists():
            return 0
        saved = torch.load(self.state, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return int(saved["step"])

    def save(self, step: int) -> None:
        """Write the state beside the old one, then replace it."""
        part = self.state.with_suffix(".part")
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"model": self.model.state_dict(), "optimizers": states, "step": step}, part)
        part.replace(self.state)


def train(
    run: Run,
    args: argparse.Namespace,
    step_once: Callable[[int], tuple[torch.Tensor, Entry]],
    check: Callable[[], Entry],
) -> None:
    """Run the steps that are left; `check` is measured, logged and followed by a save every `args.save_every` steps."""
    first, started = run.resume(), time.perf_counter()
    columns = (TextColumn(run.name), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns) as progress, run.log.open("a") as log:
        task = progress.add_task("", total=args.steps, completed=first, note="")
        for step in range(first, args.steps):
            for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
                group["lr"] = args.rate * rate_at(step, args.steps, args.warmup, args.fall)
            loss, entry = step_once(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
            for optimizer in run.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            pace = (time.perf_counter() - started) / (step + 1 - first)
            entry = {"step": step + 1, "loss": round(loss.item(), 4), **entry, "s_per_step": round(pace, 3)}
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
                entry |= check()
                run.save(step + 1)
            if (step + 1) % 10 == 0 or step + 1 == args.steps:
                log.write(json.dumps(entry) + "\n")
                log.flush()
            progress.update(task, completed=step + 1, note=f"step {step + 1} loss {loss.item():.3f} {pace:.2f} s/step")


def arguments(text: str | None, output: Path, name: str, **defaults: float) -> argparse.ArgumentParser:
    """The options that both trainings have."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--state", type=Path, default=Path(f"artifacts/demo-training/{name}.pt"))
    parser.add_argument("--log", type=Path, default=here / f"logs/{name}.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    for option, value in defaults.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(value), default=value)
    return parser
