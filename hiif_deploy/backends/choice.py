"""Which engine is taken where the user leaves it open, and what options mean for the machine."""

from collections.abc import Iterator
from dataclasses import replace

from hiif_deploy.backends.engines import ENGINES, Engine
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.providers import PROCESSOR_PROVIDERS, full_provider
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision


def auto_attempts(contract: Contract, options: EngineOptions) -> Iterator[tuple[str, EngineOptions]]:
    """Names and options of the engines that `auto` tries for a bundle, the fastest first; the last works anywhere.

    All compute in the precision that was chosen, or else in fp32. None is built, which takes minutes.
    """
    precision = options.precision or "fp32"
    if precision in contract.precisions:
        gpu = replace(options, precision=precision, engine="tensorrt", builds=False)
        yield "tensorrt", gpu
        yield "torch", replace(gpu, engine="torch", device="cuda")
        yield "cuda", replace(gpu, engine="onnxruntime", provider="cuda")
    if precision in ENGINES["native"].precisions:
        yield "native", replace(options, engine="native")
    yield "processor", replace(options, engine=library_engine(options.precision), provider="cpu")


def library_engine(precision: ComputePrecision | None) -> Engine:
    """The library that has this precision on any processor."""
    return "openvino" if precision in REDUCED_PRECISIONS else "onnxruntime"


def runs_on_gpu(options: EngineOptions) -> bool:
    """Whether these options put the work on a GPU."""
    use = ENGINES[options.engine].gpu
    if use == "provider":
        return full_provider(options.provider) not in PROCESSOR_PROVIDERS
    return options.device != "cpu" if use == "device" else use == "always"
