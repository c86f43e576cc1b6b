"""What a model applies between the matrices of its MLP; other programs apply what is usual for its
type, whatever config.json says.
"""

from typing import Any

from lwq.models.settings import text_settings

ALIKE = (  # names of one function in transformers
    {"silu", "swish"},
    {"gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_python_tanh"},
    {"gelu", "gelu_python"},
)


def unusual(config: Any) -> str:
    """The setting and the activation of `config` where it is not the usual one of its type, which
    is the default in transformers; else "".
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    said = text_settings(config)
    usual = CONFIG_MAPPING[said["model_type"]]
    key = "hidden_activation" if hasattr(usual, "hidden_activation") else "hidden_act"
    default = getattr(usual, key)
    alike = next((names for names in ALIKE if default in names), {default})
    return "" if said[key] in alike else f"{key}={said[key]!r} (usual: {default!r})"
