"""Models as files that serve: ONNX graphs in float32 and int8, run by onnxruntime without torch."""

from tutelage.serving.graph import quantize, to_onnx
from tutelage.serving.session import GraphMetadata, OnnxModel
from tutelage.serving.timing import Latency, latency

__all__ = ["GraphMetadata", "Latency", "OnnxModel", "latency", "quantize", "to_onnx"]
