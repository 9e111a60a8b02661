"""Triton Python model: a picture in, an upscaled picture out.

hiif_deploy works here as everywhere else, except that other models of the same server run its graphs (business logic
scripting). Each graph is the model NAME_GRAPH, NAME being this model's own name.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]

from hiif_deploy.backends.sessions.open import open_on_host, open_shared
from hiif_deploy.bundle.contract import GraphContract, is_fold
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.encode import encode, encode_whole
from hiif_deploy.decoding.job import Job, Window, ignore
from hiif_deploy.decoding.output_check import NotAPictureError
from hiif_deploy.decoding.plan import make_plan
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.session_executor import SessionExecutor
from hiif_deploy.errors import EngineError, HiifError
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.sizes import check_output, output_size
from hiif_deploy.pixels import check_frame
from hiif_engines.emit.portions import ChunkedSession, fit_plan


class BlsSession:
    """Runs one graph through the server's model that contains it."""

    def __init__(self, model: str, graph: GraphContract) -> None:
        self.model = model
        self.graph = graph

    def run(self, feeds: Tensors) -> dict[str, Any]:
        """Send the inputs and return the outputs; EngineError names the model and the server's reason."""
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            requested_output_names=[tensor.name for tensor in self.graph.outputs],
            inputs=[
                pb_utils.Tensor(tensor.name, np.ascontiguousarray(feeds[tensor.name], dtype=tensor.dtype))
                for tensor in self.graph.inputs
            ],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise EngineError(f"model {self.model} failed: {response.error().message()}")
        # Copy: the server's shared memory is small and freed with the response.
        return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}


class TritonPythonModel:
    """Implements the interface of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle beside this file; config.pbtxt has the block sizes, and the limits of the engines."""
        config = json.loads(args["model_config"])
        self.settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.limits = json.loads(self.settings["limits"])
        bundle = open_bundle(Path(args["model_repository"]) / args["model_version"] / "bundle")
        self.contract = bundle.contract
        self.sessions: dict[str, Session] = {}
        for name, graph in self.contract.chain(self.settings["precision"]).items():
            if is_fold(name):
                self.sessions[name] = open_on_host(graph, bundle.graphs[graph.key])
                continue
            self.sessions[name] = session = BlsSession(f"{args['model_name']}_{name}", graph)
            if self.limits and graph.geometry:
                self.sessions[name] = ChunkedSession(session, graph, self.limits)
        self.converter = FrameConverter(self.contract, open_shared)
        self.executor = SessionExecutor(self.contract, self.sessions, self.converter, threads=1)
        self.decoder = Decoder(self.contract, self.executor, "Triton Inference Server")

    def finalize(self) -> None:
        """Close the threads of the executor."""
        self.executor.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request; that of a refused request contains the reason."""
        return [self.respond(request) for request in requests]

    def respond(self, request: Any) -> Any:
        """Upscale `image` by either `scale` or `size`, and return `frame` as a response."""
        values = {}
        for name in ("image", "scale", "size"):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            values[name] = None if tensor is None else tensor.as_numpy()
        try:
            frame = self.upscale(**values)
        except HiifError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("frame", frame)])

    def upscale(self, image: Any, scale: Any, size: Any) -> Any:
        """Upscale [h, w, 3] uint8 by scale [1] float32 or to size [2] int32 (height, width)."""
        check_frame(image)
        source = (image.shape[0], image.shape[1])
        # Recover the decimal digits: 3.3 is 3.2999999 in float32, which can cost an output row.
        factor = None if scale is None else float(str(np.float32(scale[0])))
        target = output_size(source, scale=factor, size=None if size is None else (int(size[0]), int(size[1])))
        check_output(source, target, int(self.settings["max_output_pixels"]))
        cut = {name: int(self.settings[name]) for name in ("query_block", "tile_rows")}
        plan = make_plan(self.contract, source, budget=int(self.settings["memory"]), **cut)
        plan = fit_plan(plan, self.contract, source, self.limits) if self.limits else plan
        run = partial(encode_whole, self.sessions["encoder"], self.contract, self.converter)
        features = encode(run, self.contract, image, plan, ignore)
        job = Job(self.contract, features, image, target, plan, relative_cell(source, target))
        whole = Window((0, target[0]), (0, target[1]))
        frame = np.empty((*target, 3), dtype=image.dtype)
        try:
            for rows, columns, values in self.decoder.frames(job, whole, self.decoder.statistics(job, whole)):
                frame[rows, columns] = values
        except NotAPictureError as error:
            raise EngineError(f"the decoder gave {error.what}, as fp16 can; serve the graphs in fp32") from error
        return frame
