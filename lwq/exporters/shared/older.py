"""Settings under the names that transformers 4 gave them, for programs that were written to it."""

from collections.abc import Mapping
from typing import Any

APART = ("rope_theta", "partial_rotary_factor")  # keys of their own beside `rope_scaling`


def older(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 5 says in `rope_parameters`, once or for each type of layer, in keys of
    their own: a program that does not find them computes with rotations of its defaults.

    config: of the text model, as config.json has it.
    """
    ropes = config.get("rope_parameters") or {}
    whole, local = (ropes.get(key) or {} for key in ("full_attention", "sliding_attention"))
    whole = whole or ropes
    found = {key: whole.get(key) for key in APART}
    kind = whole.get("rope_type", "default")
    if kind != "default":
        rest = {key: value for key, value in whole.items() if key not in APART}
        found["rope_scaling"] = {**rest, "type": kind}
    found["rope_local_base_freq"] = local.get("rope_theta")
    return {key: value for key, value in found.items() if value is not None}
