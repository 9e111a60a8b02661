"""SRNO restructured for deployment: equal to `hiif_training.models.srno` up to rounding, a quarter fewer operations.

The input layer has neither norm nor activation, so its product with the features is a map per corner, and so are the
first attention's keys and values; attention is summed up in passes and folded into one matrix as HIIF's is. The first
projection of the first attention stays a product per query: its matrix is only known when the maps are there already.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from hiif_deploy.contract import DecoderContract, Precision
from hiif_export.corners import Position, corner_pixels, corner_relatives, corner_weights
from hiif_export.form import DecoderForm, Inputs, Shapes, axis_inputs, cell_input, features_input, map_input, shapes
from hiif_export.graph import Graph
from hiif_export.hiif_modules import Attention, Fold, KeyValue
from hiif_export.liif_form import copied
from hiif_export.precision import COMPUTE, typed, wide
from hiif_training.models.hiif import LinearAttention
from hiif_training.models.srno import EPSILON, POSITION, GalerkinAttention, HeadNorm, Srno

BLOCKS = 2
"""Attention blocks."""
