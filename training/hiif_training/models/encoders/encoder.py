"""The interface that decoders require of an encoder."""

from __future__ import annotations

from typing import TypeAlias

from hiif_training.models.encoders.edsr import Edsr
from hiif_training.models.encoders.rdn import Rdn
from hiif_training.models.encoders.span import Span
from hiif_training.models.encoders.swinir import Swinir

Encoder: TypeAlias = Edsr | Rdn | Span | Swinir
"""Normalised picture [B, colours, h, w] → features [B, out_channels, h, w]; dtype and device are kept.

out_channels      channels of the features
receptive_field   pixels that each feature sees to every side; None where there is no practical bound
memory_channels   float32 values per pixel alive at the peak of an inference, an upper estimate
input_layer       convolution that reads the picture
output_layer      convolution that gives the features; None where they are a sum, or an activation
size_multiple     h and w must be multiples of it; the caller pads (FrameError otherwise)
"""
