"""The acceptance subgraph against the rule written in Python, and against the law that it must keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from acceptance_graphs import acceptance_session, softmax
from dspark_reference import verify
from forerun_compiler.passes.accept import emit_own_token
from forerun_compiler.passes.emitter import Emitter
from hand_graphs import FLOAT, INT, session

K, V = 5, 11


@dataclass(frozen=True)
class Case:
    """One verification; logits has R rows, of which n_draft + 1 matter."""

    logits: np.ndarray
    drafts: np.ndarray
    n_draft: int
    temperature: float
    uniform: np.ndarray
    draft_probs: np.ndarray


def run(opened: ort.InferenceSession, case: Case) -> tuple[int, int]:
    kept, own = opened.run(
        None,
        {
            "logits": case.logits,
            "drafts": case.drafts,
            "n_draft": np.array([case.n_draft]),
            "temperature": np.array([case.temperature], np.float32),
            "uniform": case.uniform,
            "draft_probs": case.draft_probs,
        },
    )
    return int(kept[0]), int(own[0])


def cases(count: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        rows = int(rng.integers(1, K + 2))
        logits = rng.standard_normal((rows, V), np.float32) * 2
        drafts = rng.integers(0, V, K + 1)
        if number % 2:  # else hardly any greedy draft would be kept
            drafts[:rows] = np.where(rng.random(rows) < 0.8, logits.argmax(1), drafts[:rows])
        if number % 5 == 0:
            logits[:, rng.integers(0, V, 2)] = logits.max()  # ties: the lowest index wins
        yield Case(
            logits,
            drafts,
            int(rng.integers(0, rows)),
            (0.0, 1.0, 0.6)[number % 3],
            rng.random(K + 1, np.float32),
            softmax(rng.standard_normal((K, V), np.float32) * 2),
        )


def test_verdicts_equal_the_rule_in_python() -> None:
    """Widths 1 to K + 1, drafts 0 to width - 1, padding behind, greedy and two temperatures, ties."""
    opened, seen = acceptance_session(K, V), set[tuple[int, int, bool]]()
    for case in cases(6000, seed=0):
        n = case.n_draft
        uniforms = [*case.uniform[:n].tolist(), float(case.uniform[K])]
        probs = [torch.from_numpy(row) for row in case.draft_probs]
        want = verify(torch.from_numpy(case.logits), case.drafts[:n].tolist(), probs, case.temperature, uniforms)
        assert run(opened, case) == want, case
        seen.add((n, want[0], case.temperature > 0))
    assert {(n, kept) for n, kept, _ in seen} == {(n, kept) for n in range(K + 1) for kept in range(n + 1)}


def test_padding_rows_do_not_matter() -> None:
    opened, rng = acceptance_session(K, V), np.random.default_rng(1)
    for case in cases(300, seed=1):
        n = case.n_draft
        other = Case(
            np.concatenate([case.logits[: n + 1], rng.standard_normal((len(case.logits) - n - 1, V), np.float32)]),
            np.concatenate([case.drafts[:n], rng.integers(0, V, K + 1 - n)]),
            n,
            case.temperature,
            np.concatenate([case.uniform[:n], rng.random(K - n, np.float32), case.uniform[K:]]),
            np.concatenate([case.draft_probs[:n], softmax(rng.standard_normal((K - n, V), np.float32))]),
        )
        assert run(opened, case) == run(opened, other)


def test_a_drafter_that_is_the_target_is_always_accepted_and_leaves_no_residual() -> None:
    opened, rng = acceptance_session(K, V), np.random.default_rng(2)
    for _ in range(200):
        logits = rng.standard_normal((K + 1, V), np.float32)
        drafts = rng.integers(0, V, K + 1)
        case = Case(logits, drafts, K, 1.0, np.full(K + 1, 0.999, np.float32), softmax(logits[:K]))
        assert run(opened, case)[0] == K
    # A rejection without a residual (u = 1 here) falls back to p_target.
    certain = np.full((K + 1, V), -1e4, np.float32)
    certain[:, 4] = 0.0
    case = Case(certain, np.full(K + 1, 4), K, 1.0, np.ones(K + 1, np.float32), softmax(certain[:K]))
    assert run(opened, case) == (0, 4)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 1.0 - 2.0**-24, 1.0])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float) -> None:
    opened = acceptance_session(K, V)
    logits = np.full((1, V), -1e4, np.float32)
    logits[0, [3, 7]] = 0.0
    case = Case(
        logits, np.zeros(K + 1, np.int64), 0, 1.0, np.full(K + 1, uniform, np.float32), np.zeros((K, V), np.float32)
    )
    assert run(opened, case)[1] == (3 if uniform < 0.5 else 7)


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """Upper tail of the chi-square statistic, by the regularised gamma function."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(observed) - 1
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0), torch.tensor(statistic / 2.0)))


def test_the_first_two_tokens_follow_the_target() -> None:
    """Draft from p_draft, verify, and count the first two tokens of the output: their joint law is the target's."""
    k, v, samples, temperature = 2, 4, 40_000, 0.8
    opened, rng = acceptance_session(k, v), np.random.default_rng(4)
    target = rng.standard_normal((1 + v, v)).astype(np.float32)  # logits of the first token, and after each first token
    draft = softmax(rng.standard_normal((1 + v, v)).astype(np.float32))
    p_target = softmax(target / np.float32(temperature))
    counts = np.zeros((v, v))
    for first_draw, second_draw, *uniform in rng.random((samples, 2 + k + 1 + 1)).tolist():
        first = int((draft[0].cumsum() <= first_draw).sum().clip(max=v - 1))
        second = int((draft[1 + first].cumsum() <= second_draw).sum().clip(max=v - 1))
        case = Case(
            np.stack([target[0], target[1 + first], target[1 + second]]),
            np.array([first, second, 0]),
            2,
            temperature,
            np.array(uniform[: k + 1], np.float32),
            np.stack([draft[0], draft[1 + first]]),
        )
        kept, own = run(opened, case)
        one, *rest = [*[first, second][:kept], own]
        # When the round stopped after one token, the next round would begin with a plain draw.
        two = rest[0] if rest else int((p_target[1 + one].cumsum() <= uniform[-1]).sum().clip(max=v - 1))
        counts[one, two] += 1
    law = p_target[0][:, None] * p_target[1:]
    assert chi_square_p(counts.reshape(-1), samples * law.reshape(-1)) > 1e-3


def test_plain_choice_is_the_same_rule() -> None:
    inputs = [ir.val("logits", FLOAT, [1, V]), ir.val("temperature", FLOAT, [1]), ir.val("uniform", FLOAT, [1])]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 24}, name="plain")
    own = emit_own_token(Emitter(graph, "own."), *inputs)
    own.name, own.type, own.shape = "own", ir.TensorType(INT), ir.Shape([1])
    graph.outputs.append(own)
    opened, rng = session(ir.Model(graph, ir_version=10)), np.random.default_rng(5)
    for number in range(500):
        logits, uniform = rng.standard_normal((1, V), np.float32) * 3, rng.random(1, np.float32)
        temperature = (0.0, 1.0, 0.3)[number % 3]
        want = verify(torch.from_numpy(logits), [], [], temperature, uniform.tolist())[1]
        feeds = {"logits": logits, "temperature": np.array([temperature], np.float32), "uniform": uniform}
        assert opened.run(None, feeds)[0].tolist() == [want]
