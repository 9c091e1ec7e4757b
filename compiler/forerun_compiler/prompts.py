"""Prompts for `verify` and `bench`: a file with one {"prompt": "..."} a line, or the built-in ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from forerun_compiler.errors import ForerunError, RecipeError

FILE_NAME = "prompts.jsonl"
_FORMS = (
    "Explain to a beginner how {} works, step by step.",
    "Write a short Python function about {} and a test for it.",
    "List five facts about {} and say which one surprises most people.",
    "Once upon a time, somebody who knew nothing of {} had to",
    "The history of {} began when",
    "Question: what is the most common mistake with {}?\nAnswer:",
    "Dear colleague, thank you for your question about {}. In short,",
    "# {}\n\n## Summary\n\n",
)
_SUBJECTS = (
    "binary search",
    "the water cycle",
    "compound interest",
    "a bicycle's gears",
    "reading a large text file line by line",
    "the moons of Jupiter",
    "baking bread",
    "a hash table",
)
BUILT_IN = tuple(form.format(subject) for subject in _SUBJECTS for form in _FORMS)


def read_prompts(path: Path, error: type[ForerunError] = RecipeError) -> tuple[str, ...]:
    """The prompts of a file, at least one; raises `error` with the line of what is wrong."""
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as problem:
            raise error(f"{path}:{number}: expected a JSON object, found text that is not JSON: {problem}") from None
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(prompt, str) or not prompt:
            raise error(f'{path}:{number}: expected {{"prompt": "some text"}}, found {line[:80]!r}')
        prompts.append(prompt)
    if not prompts:
        raise error(f'{path}: expected at least one line {{"prompt": "some text"}}, found none')
    return tuple(prompts)


def render_prompts(prompts: Sequence[str]) -> bytes:
    """prompts.jsonl of a bundle."""
    return "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts).encode()
