"""What a run gives is what the next run takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.passes.feedback import add_feedback
from hand_graphs import FLOAT, INT, make_model, run

K = 3


def passing(names: dict[str, list[int]], inputs: tuple[str, ...]) -> ir.Model:
    """Every output OUT is its input OUT.in; a state comes last."""
    given = [ir.val(name, INT, [1]) for name in inputs]
    pairs = [(ir.val(f"{name}.in", INT, shape), ir.val(name, INT, shape)) for name, shape in names.items()]
    pairs.append((ir.val("state", FLOAT, [1, 2]), ir.val("state.out", FLOAT, [1, 2])))
    nodes = [ir.node("Identity", [x], outputs=[y], name=f"{y.name}.node") for x, y in pairs]
    kept = [ir.node("Identity", [x], outputs=[ir.val(f"{x.name}.kept", INT, [1])], name=str(x.name)) for x in given]
    outputs = [*(node.outputs[0] for node in kept), *(y for _, y in pairs)]
    return make_model([*given, *(x for x, _ in pairs)], [*kept, *nodes], outputs)


@pytest.mark.parametrize("accepted", range(K + 1))
def test_round(accepted: int) -> None:
    shapes = {"n_accepted": [1], "committed": [1, K + 1], "draft_tokens": [1, K]}
    model = passing(shapes, ("position", "n_known"))
    assert add_feedback(model) == 2
    names = [str(value.name) for value in model.graph.outputs]
    assert names[-3:] == ["next_tokens", "next_position", "state.out"]
    committed = np.array([[*range(10, 10 + accepted), 99, *[-1] * (K - accepted)]])
    feeds = {"position": [7], "n_known": [2], "n_accepted.in": [accepted], "draft_tokens.in": [[1, 2, 3]]}
    arrays = {name: np.array(value, np.int64) for name, value in feeds.items()}
    out = run(model, arrays | {"committed.in": committed, "state": np.zeros((1, 2), np.float32)})
    assert out["next_tokens"].tolist() == [[99, 1, 2, 3]]
    assert out["next_position"].tolist() == [9 + accepted]


def test_plain() -> None:
    model = passing({"committed": [1, 1]}, ("position", "n_known"))
    assert add_feedback(model) == 2
    arrays = {"position": np.array([7]), "n_known": np.array([5]), "committed.in": np.array([[42]])}
    out = run(model, arrays | {"state": np.zeros((1, 2), np.float32)})
    assert (out["next_tokens"].tolist(), out["next_position"].tolist()) == ([[42]], [12])


def test_a_graph_of_another_kind_is_refused() -> None:
    with pytest.raises(PassError, match="the graph has no output 'committed'"):
        add_feedback(passing({}, ("position", "n_known")))
