"""Every kind of encoder through TensorRT's API, a whole picture each, on the recording double."""

from __future__ import annotations

import numpy as np
import pytest

from hiif_deploy import EngineError, Upscaler
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import TOLERANCES, check_difference, measure
from trt_bench import trt_bench


@pytest.mark.parametrize("size", [(21, 34), (40, 48)])
def test_a_picture_lies_within_60_db_of_fp32(encoder_bundle: Bundle, size: tuple[int, int]) -> None:
    image = np.ascontiguousarray(sample("coffee")[: size[0], : size[1]])
    target = (round(size[0] * 2.5), size[1] * 2)
    with Upscaler(encoder_bundle) as exact:
        expected = exact.render_unclamped(exact.encode(image), size=target)
    with trt_bench(encoder_bundle, schedule="rivals") as bench:
        for _ in range(3):
            answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=target)
            check_difference("double", measure(answer, expected), TOLERANCES["fp16"])


def test_a_larger_picture_is_cut_where_that_is_exact_and_refused_where_not(encoder_bundle: Bundle) -> None:
    image = np.ascontiguousarray(sample("coffee")[:50, :60])
    with trt_bench(encoder_bundle) as bench:
        if encoder_bundle.contract.encoder.receptive_field is None:
            with pytest.raises(EngineError, match=r"at most 48x40, and this encoder has no exact tiles; .* 60x50"):
                bench.upscaler.upscale(image, scale=2)
            return
        with Upscaler(encoder_bundle) as exact:
            expected = exact.render_unclamped(exact.encode(image), size=(100, 120))
        answer = bench.upscaler.render_unclamped(bench.upscaler.encode(image), size=(100, 120))
        check_difference("cut", measure(answer, expected), TOLERANCES["fp16"])
