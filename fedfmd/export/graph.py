"""A network as an ONNX graph: written by PyTorch's exporter, counted and run as any other user of it would.

A dynamic convolution has a kernel of its own for every sample, and ONNX's convolution the same number of
groups for any batch: the layer is written in the formulation ``unfold``, each sample's mixed kernel times its
unfolded input, one batched matrix product. The batch is left open.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fedfmd.errors import UserError
from fedfmd.nn.functional import forced_formulation

OPSET = 18
"""Of ONNX 1.13 (2022), which all runtimes of today know."""
INPUT, OUTPUT = "images", "logits"
TRACED_BATCH = 3
"""Any number but 1, which the exporter would take for a constant."""
PRODUCTS = ("Conv", "MatMul", "Gemm", "Einsum")
"""Operators whose multiplications count as MACs."""


def check_installed() -> None:
    """Raise ``UserError`` where the packages of the extra ``export`` are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - PyTorch's exporter writes with it
    except ImportError as error:
        raise UserError(
            f"fedfmd export: {error.name} is not installed: pip install 'fedfmd[export]'"
        ) from None


def onnx_bytes(model: nn.Module, input_shape: tuple[int, ...], metadata: Mapping[str, Any]) -> bytes:
    """Return a network in evaluation mode as an ONNX file, from (batch, *input_shape) to logits.

    ``metadata`` go into the file's properties, each as JSON. Raises ``UserError`` for a network that cannot
    be written as a graph.
    """
    example = torch.zeros(TRACED_BATCH, *input_shape)
    try:
        with forced_formulation("unfold"), torch.no_grad(), _silence():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in a network of the user's own
        raise UserError(f"this network cannot be written as ONNX: {_reason(error)}") from error
    assert program is not None
    document = program.model_proto
    if not document.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise UserError(
            "this network cannot be written as ONNX: it fixes the size of a batch, as len(x) does"
        )
    _forget_origins(document)
    for key, value in metadata.items():
        document.metadata_props.add(key=key, value=json.dumps(value))
    content: bytes = document.SerializeToString()
    return content


def _forget_origins(document: Any) -> None:
    """Drop what the exporter notes of each operator's place in the source: more bytes than the operators."""
    graph = document.graph
    del graph.value_info[:], document.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def session(content: bytes, threads: int) -> Any:
    """Return ONNX Runtime's session of a file's content, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: Tensor) -> Tensor:
    """Return the logits (B, classes) of normalised images (B, C, H, W)."""
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def graph_macs(content: bytes, input_shape: tuple[int, ...]) -> int:
    """Count one image's MACs in the graph's convolutions and matrix products, by the shapes that it meets.

    The shapes are those of a run with one image, so that nothing depends on what can be inferred of a graph.
    """
    import onnx

    document = onnx.ModelProto.FromString(content)
    nodes = [node for node in document.graph.node if node.op_type in PRODUCTS]
    constants = {tensor.name: tuple(tensor.dims) for tensor in document.graph.initializer}
    values = sorted({name for node in nodes for name in (*node.input, *node.output)} - {INPUT, ""})
    known = {output.name for output in document.graph.output} | constants.keys()
    document.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    opened = session(document.SerializeToString(), 1)
    names = [output.name for output in opened.get_outputs()]
    found = opened.run(names, {INPUT: torch.zeros(1, *input_shape).numpy()})
    shapes = {
        INPUT: (1, *input_shape),
        **constants,
        **{n: tuple(a.shape) for n, a in zip(names, found, strict=True)},
    }
    return sum(_node_macs(node, shapes) for node in nodes)


def _node_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count one operator: each element of its output is a sum of so many products."""
    if node.op_type == "Einsum":
        return _einsum_macs(node, shapes)
    first, second = (shapes[name] for name in node.input[:2])
    if node.op_type == "Conv":
        terms = prod(second[1:])
    elif node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
        terms = first[0]
    else:
        terms = first[-1]
    return prod(shapes[node.output[0]]) * terms


def _einsum_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count a product for each combination of the indices that the equation names."""
    equation = node.attribute[0].s.decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes = {
        index: size
        for term, name in zip(terms, node.input, strict=True)
        for index, size in zip(term, shapes[name], strict=True)
    }
    return prod(sizes.values())


@contextmanager
def _silence() -> Iterator[None]:
    """Let the exporter say nothing: what it has to say is for those who write exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the first line of the error at the bottom: the exporter wraps what a network raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {' '.join(lines[0].split())}"
