"""The SwinIR encoder: sizes, keys, structure, the shift mask, export."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError, FrameError
from hiif_training.models.encoders.swinir import Swinir, SwinirConfig, merge, partition, shift_mask

TINY = SwinirConfig(embed=12, depths=(2, 2), heads=(2, 3))

TENSORRT_OPERATORS = {
    *("Add", "And", "Cast", "Concat", "Conv", "Div", "Equal", "Gather", "Gelu", "LayerNormalization"),
    *("LeakyRelu", "MatMul", "Mul", "Or", "Range", "Reshape", "Shape", "Slice", "Softmax", "Split"),
    *("Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
}
"""Of those in the support table of TensorRT's ONNX parser, the ones that this encoder may need."""


@pytest.fixture(scope="module")
def published() -> Swinir:
    return Swinir(SwinirConfig())


def loud(config: SwinirConfig) -> Swinir:
    """Random weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = Swinir(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_swinir_has_the_published_number_of_parameters(published: Swinir) -> None:
    assert sum(p.numel() for p in published.parameters()) == 11_603_044


def test_swinir_has_exactly_the_published_keys(published: Swinir) -> None:
    layers = ["conv_first", "patch_embed.norm", "norm", "conv_after_body", "conv_before_upsample.0"]
    layers += [f"layers.{i}.conv" for i in range(6)]
    blocks = [(f"layers.{i}.residual_group.blocks.{j}", j) for i in range(6) for j in range(6)]
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layers += [f"{block}.{part}" for block, _ in blocks for part in parts]
    keys = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    keys |= {f"{b}.attn.relative_position_{k}" for b, _ in blocks for k in ("bias_table", "index")}
    keys |= {f"{block}.attn_mask" for block, j in blocks if j % 2 == 1}
    assert set(published.state_dict()) == keys
    assert len(keys) == 544


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("conv_first.weight", (180, 3, 3, 3)),
        ("layers.0.residual_group.blocks.0.attn.qkv.weight", (540, 180)),
        ("layers.5.residual_group.blocks.5.attn.relative_position_bias_table", (225, 6)),
        ("layers.5.residual_group.blocks.5.attn.relative_position_index", (64, 64)),
        ("layers.2.residual_group.blocks.3.mlp.fc1.weight", (360, 180)),
        ("layers.2.residual_group.blocks.3.attn_mask", (36, 64, 64)),
        ("layers.4.conv.bias", (180,)),
        ("conv_before_upsample.0.weight", (64, 180, 3, 3)),
    ],
)
def test_swinir_tensors_have_the_published_shapes(published: Swinir, key: str, shape: tuple[int, ...]) -> None:
    assert tuple(published.state_dict()[key].shape) == shape


def test_the_saved_buffers_have_the_published_values(published: Swinir) -> None:
    state = published.state_dict()
    prefix = "layers.1.residual_group.blocks.1."
    assert state[prefix + "attn.relative_position_index"].dtype == torch.int64
    assert state[prefix + "attn.relative_position_index"].equal(slow_position_index(8))
    assert state[prefix + "attn_mask"].equal(slow_mask(48, 48, 8))


def slow_position_index(window: int) -> Tensor:
    pixels = [(y, x) for y in range(window) for x in range(window)]
    side = 2 * window - 1
    rows = [[(y - v + window - 1) * side + (x - u + window - 1) for v, u in pixels] for y, x in pixels]
    return torch.tensor(rows)


def slow_mask(height: int, width: int, window: int) -> Tensor:
    """Pixel by pixel: may two pixels see each other, given where each was before the roll?"""
    shift = window // 2
    pixels = [(y, x) for y in range(window) for x in range(window)]
    windows = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            was = [((top + y + shift) % height, (left + x + shift) % width) for y, x in pixels]
            windows.append(
                [
                    [
                        0.0 if (v - y, u - x) == (q - p, s - r) else -100.0
                        for (v, u), (q, s) in zip(was, pixels, strict=True)
                    ]
                    for (y, x), (p, r) in zip(was, pixels, strict=True)
                ]
            )
    return torch.tensor(windows)


@pytest.mark.parametrize(
    ("height", "width", "window"), [(8, 8, 8), (8, 24, 8), (40, 8, 8), (16, 24, 8), (24, 16, 4), (6, 4, 2)]
)
def test_the_shift_mask_equals_the_slow_reference(height: int, width: int, window: int) -> None:
    assert shift_mask(height, width, window, torch.empty(0)).equal(slow_mask(height, width, window))


def test_the_shift_mask_follows_the_dtype_of_the_picture() -> None:
    assert shift_mask(8, 8, 8, torch.empty(0, dtype=torch.float16)).dtype == torch.float16


def test_partition_lists_windows_and_their_pixels_in_row_major_order() -> None:
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = partition(x, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[1, 4].flatten().tolist() == (24 + torch.tensor([14, 15, 20, 21])).tolist()
    assert merge(windows, 2, 4, 6).equal(x)


def slow_attention(x: Tensor, weights: dict[str, Tensor], block: str, heads: int, shift: int) -> Tensor:
    """[H, W, C], window by window and head by head."""
    height, width, channels = x.shape
    index, mask = slow_position_index(8), slow_mask(height, width, 8)
    rolled, out = torch.roll(x, (-shift, -shift), (0, 1)), torch.empty_like(x)
    for number in range(height * width // 64):
        row, column = 8 * (number // (width // 8)), 8 * (number % (width // 8))
        tokens = rolled[row : row + 8, column : column + 8].reshape(64, channels)
        qkv = tokens @ weights[f"{block}.attn.qkv.weight"].T + weights[f"{block}.attn.qkv.bias"]
        answers = []
        for head in range(heads):
            size = channels // heads
            q, k, v = (qkv[:, n * channels + head * size :][:, :size] for n in range(3))
            bias = weights[f"{block}.attn.relative_position_bias_table"][index, head]
            scores = q @ k.T / size**0.5 + bias + (mask[number] if shift else 0)
            answers.append(scores.softmax(1) @ v)
        joined = torch.cat(answers, 1) @ weights[f"{block}.attn.proj.weight"].T
        out[row : row + 8, column : column + 8] = joined.view(8, 8, channels)
    return torch.roll(out, (shift, shift), (0, 1)) + weights[f"{block}.attn.proj.bias"]


def slow_swinir(image: Tensor, weights: dict[str, Tensor], config: SwinirConfig) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def on_picture(x: Tensor, name: str) -> Tensor:
        return conv(x.permute(2, 0, 1)[None], name)[0].permute(1, 2, 0)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    shallow = conv(image, "conv_first")
    x = norm(shallow[0].permute(1, 2, 0), "patch_embed.norm")
    for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        before = x
        for j in range(depth):
            block = f"layers.{i}.residual_group.blocks.{j}"
            x = x + slow_attention(norm(x, f"{block}.norm1"), weights, block, heads, shift=4 * (j % 2))
            hidden = nn.functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + linear(hidden, f"{block}.mlp.fc2")
        x = before + on_picture(x, f"layers.{i}.conv")
    deep = conv(norm(x, "norm").permute(2, 0, 1)[None], "conv_after_body")
    before_activation = conv(deep + shallow, "conv_before_upsample.0")
    return torch.where(before_activation < 0, 0.01 * before_activation, before_activation)


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_swinir_equals_the_paper_written_out_window_by_window(size: tuple[int, int]) -> None:
    model = loud(TINY)
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = slow_swinir(image, model.state_dict(), TINY)
        torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)


def test_each_picture_of_a_batch_is_encoded_alone() -> None:
    model = loud(TINY)
    images = torch.rand(2, 3, 16, 8)
    torch.testing.assert_close(model(images)[1:], model(images[1:]), atol=1e-5, rtol=1e-5)


def test_the_saved_mask_has_no_influence() -> None:
    model = loud(TINY)
    image = torch.rand(1, 3, 16, 16)
    before = model(image)
    for name, buffer in model.named_buffers():
        if name.endswith("attn_mask"):
            buffer.fill_(7.0)
    assert model(image).equal(before)


def test_swinir_features_have_64_channels_and_no_bounded_reach(published: Swinir) -> None:
    assert (published.out_channels, published.size_multiple, published.receptive_field) == (64, 8, None)


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (7, 7)])
def test_sides_that_are_not_multiples_of_the_window_are_refused(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(FrameError, match=rf"{width}×{height} pixels: expected both sides .* multiples of 8; pad"):
        loud(TINY)(torch.rand(1, 3, height, width))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"embed": 0}, "sizes out of range"),
        ({"depths": (), "heads": ()}, "sizes out of range"),
        ({"depths": (2, 2), "heads": (2,)}, "2 depths but 1 heads"),
        ({"embed": 10, "depths": (2,), "heads": (3,)}, "embed 10 is not a multiple"),
        ({"window": 7}, "window is 7: expected an even number"),
        ({"image_size": 50}, "image_size is 50: expected a larger multiple of window 8"),
        ({"image_size": 8}, "image_size is 8: expected a larger multiple of window 8"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        SwinirConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_one_exported_swinir_serves_every_size() -> None:
    model = loud(SwinirConfig(embed=12, depths=(2, 2), heads=(2, 2)))
    program = torch.onnx.export(
        model,
        (torch.rand(1, 3, 24, 32),),
        dynamo=True,
        dynamic_shapes=({2: 8 * torch.export.Dim("h8"), 3: 8 * torch.export.Dim("w8")},),
        opset_version=20,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    assert {node.op_type for node in program.model_proto.graph.node} <= TENSORRT_OPERATORS
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for size in [(8, 8), (16, 24), (40, 8), (48, 48)]:
        image = torch.rand(1, 3, *size)
        (answer,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        np.testing.assert_allclose(answer, model(image).detach().numpy(), atol=1e-4)
