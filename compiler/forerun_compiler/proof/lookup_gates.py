"""The gates of prompt lookup: greedy text of prompts that repeat themselves, and sampling where a draft is found.

What is looked up is found in some texts and not in others, so these gates make texts in which it is, and count.
"""

from __future__ import annotations

from collections.abc import Callable

from forerun_compiler.proof.gates import (
    Comparison,
    Engine,
    Reference,
    Sampled,
    Tokens,
    Way,
    check_sampling,
    compare,
    generate,
)

CONTINUATIONS = 6
"""Of a prompt for sampling: so many of the most probable next tokens have occurred in it before."""
POSITIONS = 4
"""Tokens of a sample: the first round after the prompt may then keep two that were looked up, and draw another."""


def check_greedy(
    engine: Engine, reference: Reference | None, prompt: Tokens, count: int, tie: float, name: str
) -> tuple[Comparison, int]:
    """Decode the prompt, written three times, with prompt lookup and plainly; also how many rounds looked up."""
    most = engine.facts.capacity - count - 1
    text = (prompt * 3)[-most:]
    found, plain = generate(engine, text, count, "speculative", lookup=True), generate(engine, text, count, "plain")
    what = f"{name}, repeated: decoding with prompt lookup and plain decoding"
    return compare(what, text, found.tokens, plain.tokens, reference, tie), found.looked_up


def check_looked_up_sampling(
    engine: Engine, reference: Reference, prompt: Tokens, samples: int, seed: int, on_sample: Callable[[], None]
) -> Sampled:
    """Chi-square tests of sampling after a prompt in which most continuations have occurred before."""
    text = repeating(reference, prompt, engine.facts.lookup_match, engine.facts.capacity - POSITIONS - 1)
    ways = (Way(engine.facts.draft_len, lookup=True), Way(None, lookup=True))
    return check_sampling(engine, reference, text, samples, seed, on_sample, ways, POSITIONS)


def repeating(reference: Reference, prompt: Tokens, match: int, most: int) -> Tokens:
    """A prompt that ends with its last `match` - 1 tokens, which stand in it before each of the likeliest next tokens.

    Behind each of these follow the two that the reference would say next, and are looked up: drafts that are kept, and
    drafts that are not. At most `most` tokens.
    """
    while len(prompt) < match:
        prompt += prompt
    last = prompt[len(prompt) - (match - 1) :]
    count = min(CONTINUATIONS, (most - len(prompt)) // (3 + len(last)))
    likeliest = reference.logits(prompt).argsort()[::-1][: max(count, 0)]
    # The likeliest of all comes last: it is nearest to the end, where a model looks first.
    for token in likeliest[::-1].tolist():
        prompt += (token, *reference.greedy((*prompt, token), 2), *last)
    return prompt
