"""Opens a bundle on ONNX Runtime or OpenVINO."""

from __future__ import annotations

from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.onnxruntime_device import DeviceBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.onnxruntime_device import device_of
from hiif_deploy.bundle.loader import Bundle


def open_host(bundle: Bundle, options: EngineOptions) -> HostBackend:
    """On the processor, or on a CUDA provider, where tensors stay on the GPU."""
    return (DeviceBackend if keeps_tensors(bundle, options) else HostBackend)(bundle, options)


def keeps_tensors(bundle: Bundle, options: EngineOptions) -> bool:
    """Whether `DeviceBackend` is the way for this bundle and provider."""
    is_gpu = options.engine == "onnxruntime" and device_of(options.provider) == "cuda"
    return is_gpu and bundle.contract.decoder.cascade == 1
