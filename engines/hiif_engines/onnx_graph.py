"""Parses a bundle's ONNX file as data, of which nothing is executed."""

import onnx

from hiif_deploy.errors import BundleError


def parse_graph(key: str, model: bytes) -> onnx.GraphProto:
    """Return the graph of an ONNX file; BundleError naming the bundle's graph `key` where the file is damaged."""
    return parse_model(key, model).graph


def parse_model(key: str, model: bytes) -> onnx.ModelProto:
    """Return the model of an ONNX file; BundleError naming the bundle's graph `key` where the file is damaged."""
    try:
        return onnx.load_from_string(model)
    except Exception as error:  # protobuf's own, which is not public
        raise BundleError(f"graph {key}: its file is no ONNX model") from error
