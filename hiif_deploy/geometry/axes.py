"""The axis rules of the decoders, one function each.

A function has the arguments of `grid.axis_table` and returns an `Axis`. A new rule is a function, a line here and its
name in `grid.AxisRule`.
"""

from collections.abc import Callable

from hiif_deploy.geometry.ciaosr_axis import ciaosr_query_axis
from hiif_deploy.geometry.clit_axis import clit_query_axis
from hiif_deploy.geometry.grid import Axis, AxisRule, axis_table
from hiif_deploy.geometry.top_left_axis import top_left_axis

AXES: dict[AxisRule, Callable[..., Axis]] = {
    "corners": axis_table,
    "top-left": top_left_axis,
    "ciaosr": ciaosr_query_axis,
    "clit": clit_query_axis,
}
"""Rule → (source, target, window, *, levels, bits) → the table of one axis."""
