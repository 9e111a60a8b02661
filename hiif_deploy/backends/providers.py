"""ONNX Runtime's execution providers by their short names. Importing this loads no engine."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""Short name → ONNX Runtime's own."""

PROCESSOR_PROVIDERS = tuple(
    f"{name}ExecutionProvider" for name in ("CPU", "OpenVINO", "CoreML", "Dnnl", "XNNPACK", "ACL", "ArmNN")
)
"""Those that need no GPU of their own."""

INSTALL = {
    "CUDAExecutionProvider": "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    "TensorrtExecutionProvider": "pip uninstall -y onnxruntime && pip install onnxruntime-gpu (and TensorRT 10)",
}
"""What adds a provider."""


def full_provider(provider: str) -> str:
    """ONNX Runtime's own name of a provider that may be given by its short one."""
    return PROVIDERS.get(provider.lower(), provider)
