"""Linear layers of a graph in 8-bit integers, a scale for each row of x and each row of W.

    x ~ a X,  W ~ b Q,  X and Q in [-127, 127];  x W^T ~ a (X Q^T) b

ONNX Runtime's `quantize_dynamic` uses the same products, but one scale for all rows of x: then a
score would depend on what else is in its batch.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_FUSED = "com.microsoft"  # domain of the product that applies its columns' scales as it is written


def use_integers(model: ir.Model, *, only: str | None = None) -> int:
    """Let integers compute a graph's linear layers; return how many.

    Args:
        model: whose linear layers are Gemm or MatMul with a constant matrix; changed in place.
        only: name of the one weight that this is about.
    """
    graph, done = model.graph, 0
    for node in list(graph):
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or weight.const_value is None:
            continue
        if only is not None and weight.name != only:
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
        nodes, result = _integer_product(graph, x, matrix, bias, f"{weight.name}.integers")
        graph.insert_before(node, nodes)
        output = node.outputs[0]
        result.shape, result.type, result.name = output.shape, output.type, output.name
        output.name = None
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        done += 1
    model.opset_imports[_FUSED] = 1
    return done


def _integer_product(
    graph: ir.Graph, x: ir.Value, matrix: np.ndarray, bias: ir.Value | None, name: str
) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that compute about ``x @ matrix + bias``, and their result."""
    tiny = np.finfo(np.float32).tiny
    scale = np.maximum(np.abs(matrix).max(0), tiny).astype(np.float32) / 127
    whole = np.round(matrix / scale).astype(np.int8)

    def constant(part: str, value: np.ndarray) -> ir.Value:
        full = f"{name}.{part}"
        if full not in graph.initializers:
            graph.register_initializer(ir.Value(name=full, const_value=ir.tensor(value, name=full)))
        return graph.initializers[full]

    nodes: list[ir.Node] = []

    def apply(op: str, *inputs: ir.Value | None, domain: str = "", **attributes: int) -> ir.Value:
        made = ir.node(op, list(inputs), attributes or None, domain=domain)
        made.outputs[0].name = f"{name}.{len(graph)}.{len(nodes)}"
        nodes.append(made)
        return made.outputs[0]

    largest = apply(
        "ReduceMax", apply("Abs", x), constant("axes", np.array([-1], np.int64)), keepdims=1
    )
    step = apply("Mul", largest, constant("per_step", np.array(1 / 127, np.float32)))
    step = apply("Max", step, constant("tiny", np.array(tiny, np.float32)))
    shifted = apply(
        "Add", apply("Round", apply("Div", x, step)), constant("zero", np.array(128, np.float32))
    )
    product = apply(
        "MatMulIntegerToFloat",
        apply("Cast", shifted, to=int(ir.DataType.UINT8)),
        constant("weight", whole),
        constant("one", np.array(1, np.float32)),
        constant("scale", scale),
        constant("zero_point", np.array(128, np.uint8)),
        domain=_FUSED,
    )
    result = apply("Mul", product, step)
    return nodes, result if bias is None else apply("Add", result, bias)
