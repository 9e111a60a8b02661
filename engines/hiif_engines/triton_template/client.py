"""Upscale a picture on a Triton server: python client.py IN.png OUT.png --scale 3.3 (or --size HEIGHT WIDTH)

Needs: pip install 'tritonclient[http]' pillow
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput  # type: ignore[import-untyped,import-not-found,unused-ignore]


def main() -> None:
    """Parse the command line, send the picture to the server, save the result."""
    parser = argparse.ArgumentParser(description="upscale a picture on a Triton Inference Server")
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--url", default="localhost:8000", help="HOST:PORT of the server's HTTP service")
    parser.add_argument("--model", default="@MODEL@")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--scale", type=float)
    wanted.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    pixels = np.asarray(Image.open(options.picture).convert("RGB"))
    with InferenceServerClient(options.url, network_timeout=3600) as client:
        frame = upscale(client, options.model, pixels, options.scale, options.size)
    Image.fromarray(frame).save(options.output)


def upscale(client: Any, model: str, pixels: Any, scale: float | None, size: list[int] | None) -> Any:
    """Send an RGB picture [h, w, 3] uint8 to the server and return the upscaled one [H, W, 3]."""
    inputs = [tensor("image", pixels, "UINT8")]
    if scale is not None:
        inputs.append(tensor("scale", np.array([scale], np.float32), "FP32"))
    if size is not None:
        inputs.append(tensor("size", np.array(size, np.int32), "INT32"))
    return client.infer(model, inputs).as_numpy("frame")


def tensor(name: str, values: Any, kind: str) -> Any:
    """Return one input of the request."""
    made = InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(np.ascontiguousarray(values))
    return made


if __name__ == "__main__":
    main()
