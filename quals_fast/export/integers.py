"""Linear layers of a graph in 8-bit integers, a scale for each row of x and each row of W.

    x ~ a X,  W ~ b Q,  X and Q in [-127, 127];  x W^T ~ a (X Q^T) b

ARCHITECTURE.md says why this is not left to ONNX Runtime's `quantize_dynamic`.
"""

from __future__ import annotations

from ast import literal_eval

import numpy as np
import onnx_ir as ir

from quals_fast.export.graphs import MODULES, OPSET

_FUSED = "com.microsoft"  # domain of the product that applies its columns' scales as it is written


def use_integers(model: ir.Model, *, only: str | None = None, skip: tuple[str, ...] = ()) -> int:
    """Let integers compute a graph's linear layers; return how many.

    Args:
        model: whose linear layers are Gemm or MatMul with a constant matrix; changed in place.
        only: name of the one weight that this is about.
        skip: ends of the names of torch's modules that are left as they are.
    """
    builder, done = _Builder(model.graph), 0
    for node in list(model.graph):
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or weight.const_value is None:
            continue
        modules = literal_eval(node.metadata_props.get(MODULES, "[]"))
        if only not in (None, weight.name) or any(name.endswith(skip) for name in modules):
            continue
        matrix = weight.const_value.numpy()  # (in, out), or (out, in) if transB
        if (
            node.op_type == "Gemm"
            and "transB" in node.attributes
            and node.attributes["transB"].as_int()
        ):
            matrix = matrix.T
        if matrix.ndim != 2:
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        result = builder.product(node, x, matrix, bias, f"{weight.name}.integers")
        output = node.outputs[0]
        result.shape, result.type, result.name = output.shape, output.type, output.name
        output.name = None
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        done += 1
    model.opset_imports[_FUSED] = 1
    return done


def largest_sums() -> ir.Model:
    """Return a graph without inputs: whether the largest sums of products come out exactly."""
    length = 32
    constants: dict[str, np.ndarray] = {
        "x": np.full((2, length), 255, np.uint8),
        "weight": np.full((length, 16), 127, np.int8),
        "step": np.array(1, np.float32),
        "zero_point": np.array(0, np.uint8),
        "expected": np.array(length * 255 * 127, np.float32),
    }
    values = {
        name: ir.Value(name=name, const_value=ir.tensor(value, name=name))
        for name, value in constants.items()
    }
    factors = (values[name] for name in ("x", "weight", "step", "step", "zero_point"))
    product = ir.node("MatMulIntegerToFloat", list(factors), domain=_FUSED)
    smallest = ir.node("ReduceMin", product.outputs, {"keepdims": 0})
    is_exact = ir.node("Equal", [smallest.outputs[0], values["expected"]])
    is_exact.outputs[0].name = "is_exact"
    is_exact.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    is_exact.outputs[0].shape = ir.Shape([])
    graph = ir.Graph(
        [],
        is_exact.outputs,
        nodes=[product, smallest, is_exact],
        initializers=list(values.values()),
        opset_imports={"": OPSET, _FUSED: 1},
        name="largest_sums",
    )
    return ir.Model(graph, ir_version=10)


class _Builder:
    """Adds the nodes; layers with the same input share its integers.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def product(
        self, before: ir.Node, x: ir.Value, matrix: np.ndarray, bias: ir.Value | None, name: str
    ) -> ir.Value:
        """Return about ``x @ matrix + bias``, computed before a node."""
        scale = np.maximum(np.abs(matrix).max(0), np.finfo(np.float32).tiny) / 127
        if x not in self._rows:
            self._rows[x] = self._quantized(before, x)
        rows, step = self._rows[x]
        product = self._apply(
            before,
            "MatMulIntegerToFloat",
            rows,
            self._constant(f"{name}.weight", np.round(matrix / scale).astype(np.int8)),
            self._constant("integers.one", np.array(1, np.float32)),
            self._constant(f"{name}.scale", scale.astype(np.float32)),
            self._constant("integers.zero_point", np.array(128, np.uint8)),
            domain=_FUSED,
        )
        result = self._apply(before, "Mul", product, step)
        return result if bias is None else self._apply(before, "Add", result, bias)

    def _quantized(self, before: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return rows as integers from 1 to 255, of which 128 is zero, and the step of each."""
        axes = self._constant("integers.last_axis", np.array([-1], np.int64))
        largest = self._apply(before, "ReduceMax", self._apply(before, "Abs", x), axes, keepdims=1)
        steps = self._constant("integers.steps", np.array(1 / 127, np.float32))
        least = self._constant("integers.least", np.array(np.finfo(np.float32).tiny, np.float32))
        step = self._apply(before, "Max", self._apply(before, "Mul", largest, steps), least)
        whole = self._apply(before, "Round", self._apply(before, "Div", x, step))
        zero = self._constant("integers.zero", np.array(128, np.float32))
        shifted = self._apply(before, "Add", whole, zero)
        return self._apply(before, "Cast", shifted, to=int(ir.DataType.UINT8)), step

    def _constant(self, name: str, value: np.ndarray) -> ir.Value:
        known = self._graph.initializers
        if name not in known:
            tensor = ir.tensor(value, name=name)
            self._graph.register_initializer(ir.Value(name=name, const_value=tensor))
        return known[name]

    def _apply(
        self,
        before: ir.Node,
        op: str,
        *inputs: ir.Value,
        domain: str = "",
        **attributes: int,
    ) -> ir.Value:
        """Insert a node and return its output."""
        node = ir.node(op, list(inputs), attributes or None, domain=domain)
        self._graph.insert_before(before, node)
        return node.outputs[0]
