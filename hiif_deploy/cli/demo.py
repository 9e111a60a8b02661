"""The pictures that the package carries, upscaled, and a sheet that compares them with bicubic."""

import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hiif_deploy.geometry.sizes import output_size
from hiif_deploy.images.io import Picture, write_image
from hiif_deploy.images.samples import SAMPLES, Pixels, sample
from hiif_deploy.support.durations import duration, pixel_rate
from hiif_deploy.upscaler import Upscaler

PANEL = 420
"""Pixels of a panel's sides in the sheet."""
CROP = 0.4
"""Share of the picture's shorter side that a panel shows."""


def run_demo(bundle: str, folder: Path, scale: float) -> None:
    """Write `NAME_x4.png` for each sample and `comparison.png` to `folder`; print times and speeds."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with Upscaler(bundle) as upscaler:
        contract = upscaler.contract
        threads = upscaler.engine.thread_count
        print(f"model {contract.name}: {contract.parameters:,} parameters, {threads} threads", flush=True)
        for name in SAMPLES:
            small = sample(name)
            size = output_size((small.shape[0], small.shape[1]), scale=scale)
            began = time.perf_counter()
            large: Pixels = upscaler.upscale(small, size=size)
            seconds = time.perf_counter() - began
            path = folder / f"{name}_x{scale:g}.png"
            write_image(path, Picture(large))
            megapixels = size[0] * size[1] / 1e6
            across = f"{small.shape[1]}x{small.shape[0]} → {size[1]}x{size[0]}"
            print(f"{path}: {across} in {duration(seconds)}, {pixel_rate(megapixels / seconds)}", flush=True)
            rows.append((name, small, large))
    path = folder / "comparison.png"
    write_image(path, Picture(comparison_sheet(rows)))
    print(f"{path}: a part of each picture as input pixels, enlarged by bicubic, and by {contract.name}", flush=True)


def comparison_sheet(rows: list[tuple[str, Pixels, Pixels]]) -> Pixels:
    """One row per (name, input, output): input pixels, bicubic, output, all showing the same part."""
    gap, head = 8, 28
    width = 3 * PANEL + 4 * gap
    sheet = Image.new("RGB", (width, head + len(rows) * (PANEL + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for column, title in enumerate(("input", "bicubic", "hiif-deploy")):
        draw.text((gap + column * (PANEL + gap), 5), title, fill="black", font=font)
    for row, (name, small, large) in enumerate(rows):
        enlarged = (
            np.asarray(cv2.resize(small, (large.shape[1], large.shape[0]), interpolation=way), dtype=np.uint8)
            for way in (cv2.INTER_NEAREST_EXACT, cv2.INTER_CUBIC)
        )
        for column, picture in enumerate((*enlarged, large)):
            panel = _panel(picture, SAMPLES[name])
            sheet.paste(Image.fromarray(panel), (gap + column * (PANEL + gap), head + row * (PANEL + gap)))
    return np.asarray(sheet)


def _panel(picture: Pixels, centre: tuple[float, float]) -> Pixels:
    """The part of a picture around `centre`, shown at the panel's size without inventing detail."""
    side = round(CROP * min(picture.shape[:2]))
    top, left = (
        min(max(0, round(share * length - side / 2)), length - side)
        for share, length in zip(centre, picture.shape[:2], strict=True)
    )
    crop = picture[top : top + side, left : left + side]
    way = cv2.INTER_AREA if side > PANEL else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (PANEL, PANEL), interpolation=way), dtype=np.uint8)
