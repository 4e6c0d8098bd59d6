"""One step of the frozen core as an ONNX graph whose read-in is an *input*.

The graph is written with ``onnx.helper`` instead of torch's exporter: it is a dozen nodes, the exporter would bring another
dependency and its own deprecation warnings, and here every name is ours. Tests hold it equal to torch on every bin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from bci_align.models.encoder import Core

OPSET = 18
INPUTS = ("counts", "state", "mean", "gain", "weight", "bias")
OUTPUTS = ("latents", "state_out")


_OPERATORS = frozenset({"Sub", "Mul", "Gemm", "Split", "Add", "Sigmoid", "Tanh"})


def check(data: bytes) -> None:
    """Refuse a graph that is not made as :func:`build` makes it: other operators, loops, or weights in files elsewhere.

    ``ValueError`` says what was found. Bytes that are no graph at all raise whatever protobuf makes of them.
    """
    graph = onnx.ModelProto.FromString(data).graph
    others = {f"{n.domain}.{n.op_type}".lstrip(".") for n in graph.node} - _OPERATORS
    if others:
        raise ValueError(f"operators that no core has: {', '.join(sorted(others))}")
    if graph.sparse_initializer or any(t.data_location != TensorProto.DEFAULT or t.external_data for t in graph.initializer):
        raise ValueError("weights that are not in the graph")


def build(core: Core, channels: int) -> bytes:
    """Serialise the step ``(counts (1, C), state (1, H), read-in) -> (latents (1, d), state_out (1, H))``, all float32.

    The GRU is written out in torch's gate order (r, z, n); the latents are whitened inside the graph.
    """
    gru, head = core.gru, core.mean
    hidden, latents = gru.hidden_size, head.out_features
    w = {name: p.detach() for name, p in gru.named_parameters()}
    whiten = core.whiten.detach().double()
    weights: dict[str, NDArray[np.float32]] = {
        "w_ih": w["weight_ih_l0"].T.numpy(),
        "b_ih": w["bias_ih_l0"].numpy(),
        "w_hh": w["weight_hh_l0"].T.numpy(),
        "b_hh": w["bias_hh_l0"].numpy(),
        "w_z": (head.weight.detach().double().T @ whiten).float().numpy(),
        "b_z": ((head.bias.detach().double() - core.centre.double()) @ whiten).float().numpy(),
        "one": np.ones((1,), np.float32),
    }
    n = helper.make_node
    nodes = [
        n("Sub", ["counts", "mean"], ["centred"]),
        n("Mul", ["centred", "gain"], ["normal"]),
        n("Gemm", ["normal", "weight", "bias"], ["activity"]),
        n("Gemm", ["activity", "w_ih", "b_ih"], ["i"]),
        n("Gemm", ["state", "w_hh", "b_hh"], ["h"]),
        n("Split", ["i"], ["i_r", "i_z", "i_n"], axis=1, num_outputs=3),
        n("Split", ["h"], ["h_r", "h_z", "h_n"], axis=1, num_outputs=3),
        n("Add", ["i_r", "h_r"], ["a_r"]),
        n("Sigmoid", ["a_r"], ["r"]),
        n("Add", ["i_z", "h_z"], ["a_z"]),
        n("Sigmoid", ["a_z"], ["z"]),
        n("Mul", ["r", "h_n"], ["rh"]),
        n("Add", ["i_n", "rh"], ["a_n"]),
        n("Tanh", ["a_n"], ["new"]),
        n("Sub", ["one", "z"], ["keep_new"]),
        n("Mul", ["keep_new", "new"], ["from_new"]),
        n("Mul", ["z", "state"], ["from_old"]),
        n("Add", ["from_new", "from_old"], ["state_out"]),
        n("Gemm", ["state_out", "w_z", "b_z"], ["latents"]),
    ]
    shapes = {
        "counts": [1, channels], "state": [1, hidden], "mean": [channels], "gain": [channels],
        "weight": [channels, hidden], "bias": [hidden], "latents": [1, latents], "state_out": [1, hidden],
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "bci_align_core",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, shapes[k]) for k in INPUTS],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, shapes[k]) for k in OUTPUTS],
        [numpy_helper.from_array(np.ascontiguousarray(a), k) for k, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9, producer_name="bci_align")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
