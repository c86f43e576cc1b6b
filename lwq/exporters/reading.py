"""A plan out of somebody else's file: to be explained, priced, applied and judged beside ours.

Read are the header of a GGUF file, config.json of GPTQ (`dynamic`), AutoRound (`extra_config`),
compressed-tensors (`config_groups`) and MLX, and the YAML by which exllamav3 mixes checkpoints.
Only widths, group sizes and types are taken over: the numbers stay behind, and what is made of the
plan is made by a quantizer of ours.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.names import pick, rebuild
from lwq.contracts import KEPT, Layout, Option, Plan
from lwq.models import checkpoint
from lwq.quantizers import QUANTIZERS


@dataclass(frozen=True)
class Said:
    """What a file says of one matrix.

    Attributes:
        bits: of its codes; KEPT for 16 or more.
        group_size: columns that share a scale, −1 for a row; None where the file does not say.
        symmetric: None where the file does not say.
        kind: its type of ggml, as `Option`; None in other files.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool | None = None
    kind: str | None = None


STAYS = Said(KEPT)
AUTOGPTQ = {"desc_act", "damp_percent", "static_groups", "true_sequential"}
JSON = "JSON with the settings of gptq, auto-round, compressed-tensors or mlx"
EXPECTED = {  # end of a file's name -> what it is to hold
    ".gguf": "a GGUF file, whole",
    **dict.fromkeys((".yaml", ".yml"), "the sources and overrides of exllamav3"),
}
UNLIKE = (OSError, ValueError, TypeError, AttributeError, LookupError)  # what other files raise
Lookup = Callable[[str], Said]  # matrix, by the name that transformers gives it -> what is said


def plan_from(file: str | Path, layout: Layout, quantizer: str | None = None) -> Plan:
    """The plan that `file` holds, for the model of `layout`.

    Args:
        file: a .gguf, a config.json (or its folder), AutoGPTQ's quantize_config.json, or a .yaml of
            exllamav3.
        layout: of granularity "matrix" where the file mixes inside blocks; with `outside` where it
            quantizes embeddings or head.
        quantizer: what the plan is to be applied with; None: `ggml` for a GGUF, else `rtn` with the
            group size and symmetry of most matrices.

    Raises InputError for a file of another kind, a unit whose matrices differ, or an option that
    the quantizer does not have.
    """
    place = Path(file).expanduser()
    place = _settings_in(place) if place.is_dir() else place
    if not place.is_file():
        raise InputError(f"{place} does not exist; give a .gguf, a config.json or a .yaml")
    with _understood(place):
        lookup = _lookup(place)
        said = {name: lookup(name) for names in layout.units.values() for name in names}
    if all(one.bits == KEPT for one in said.values()):
        raise InputError(f"{place} quantizes no matrix of {layout.model!r}")
    text = quantizer or _quantizer(said.values())
    strategy = rebuild(QUANTIZERS, "quantizer", text)
    own = strategy.grid(4)
    size = own.group_size if own else None
    options = {name: _option(one, size, strategy.levels) for name, one in said.items()}
    bits = {unit: _shared(unit, list(names), options) for unit, names in layout.units.items()}
    for unit, option in bits.items():
        packer = strategy.outside if unit in layout.outside else strategy
        if option not in (KEPT, *packer.levels):
            raise InputError(
                f"{place} gives {unit} {option!r}, which {text} does not have; it has "
                f"{list(packer.levels)}: name another quantizer"
            )
    origin = {"read from": place.name, "sha256": digest(_content(place))}
    return Plan(bits, layout, text, origin)


@contextmanager
def _understood(place: Path) -> Iterator[None]:
    """Inside, what a file of another kind, or a broken one, raises is an InputError that names it
    and what was expected.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {str(error).removeprefix(f'{place} ')}") from None
    except (*UNLIKE, re.error, yaml.YAMLError) as error:
        kind = EXPECTED.get(place.suffix, JSON)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{place} does not read as {kind} ({reason})") from None


def _content(place: Path) -> str:
    """What identifies the file: of a GGUF the sizes and the name, which is gigabytes."""
    if place.suffix == ".gguf":
        return f"{place.name} {place.stat().st_size}"
    return place.read_text(encoding="utf-8")


def _lookup(place: Path) -> Lookup:
    if place.suffix == ".gguf":
        return _gguf(place)
    if place.suffix in (".yaml", ".yml"):
        return _exl3(place)
    config = json.loads(place.read_text(encoding="utf-8"))
    settings = config.get("quantization_config") or config.get("quantization") or config
    method = str(settings.get("quant_method", _unnamed(settings)))
    if method not in METHODS:
        raise InputError(f"{place} is quantized by {method!r}; read are {sorted(METHODS)}")
    lookup = METHODS[method](settings)
    return _where_packed(lookup, place.parent) if method == "mlx" else lookup


def _where_packed(lookup: Lookup, folder: Path) -> Lookup:
    """`lookup` of the matrices that have scales in the weights beside the settings: to MLX all
    others stay, whatever the settings say. As it is where no weights lie there.
    """
    try:
        held = checkpoint.dtypes(folder)
    except InputError:
        return lookup
    packed = [f".{key.removesuffix('.scales')}" for key in held if key.endswith(".scales")]
    if not packed:
        return lookup
    return lambda matrix: (
        lookup(matrix) if any(key.endswith(f".{matrix}") for key in packed) else STAYS
    )


def _settings_in(folder: Path) -> Path:
    """The file of a folder that says how it is quantized: AutoGPTQ's own where config.json says
    nothing.
    """
    config, own = folder / "config.json", folder / "quantize_config.json"
    said = config.read_text(encoding="utf-8") if config.is_file() else ""
    return own if own.is_file() and "quantization" not in said else config


def _unnamed(settings: Mapping[str, Any]) -> str:
    """The method of settings that do not name it: those of AutoGPTQ's quantize_config.json, which
    say how it solved, or MLX's.
    """
    if AUTOGPTQ & settings.keys():
        return "gptq"
    return "mlx" if "group_size" in settings else "none"


def _require_int(matrix: str, kind: str) -> None:
    """Raise InputError for codes of another type than whole numbers."""
    if not kind.startswith(("int", "affine")):
        raise InputError(
            f"{matrix} has codes of type {kind!r}, and lwq rounds to whole numbers alone; "
            "write down a plan of your own with these widths"
        )


def _gguf(place: Path) -> Lookup:
    from gguf import GGUFReader, get_tensor_name_map
    from gguf.constants import MODEL_ARCH_NAMES

    reader = GGUFReader(place)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    name = str(fields["general.architecture"])
    kind = next((arch for arch, own in MODEL_ARCH_NAMES.items() if own == name), None)
    if kind is None:
        raise InputError(f"{place} holds a {name!r}, which gguf does not know")
    names = get_tensor_name_map(kind, int(fields[f"{name}.block_count"]))
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}

    def lookup(matrix: str) -> Said:
        own = names.get_name(f"{matrix}.weight", try_suffixes=(".weight",))
        if own not in types:
            raise InputError(f"{place} has no tensor for {matrix} ({own})")
        found = types[own]
        if found in ("f16", "bf16", "f32"):
            return STAYS
        return Said(int(re.sub(r"\D*(\d).*", r"\1", found)), kind=found)

    return lookup


def _gptq(settings: Mapping[str, Any]) -> Lookup:
    """Rules are tried in their order by re.match; the first that matches wins, "-:" keeps."""
    base = Said(settings["bits"], settings["group_size"], settings.get("sym", True))

    def lookup(matrix: str) -> Said:
        if matrix.endswith(("lm_head", "embed_tokens")) and not settings.get("lm_head"):
            return STAYS
        for rule, own in (settings.get("dynamic") or {}).items():
            if re.match(rule.removeprefix("+:").removeprefix("-:"), matrix):
                return STAYS if rule.startswith("-:") else _over(base, own)
        return base

    return lookup


def _autoround(settings: Mapping[str, Any]) -> Lookup:
    """A full name wins over a part of one and over a pattern."""
    base = Said(settings["bits"], settings["group_size"], settings.get("sym", True))
    extra: Mapping[str, Any] = settings.get("extra_config") or {}

    def lookup(matrix: str) -> Said:
        own = extra[matrix] if matrix in extra else _matched(extra, matrix)
        if own is None and matrix.endswith(("lm_head", "embed_tokens")):
            return STAYS
        found = _over(base, own or {})
        if found != STAYS:
            _require_int(
                matrix, str((own or {}).get("data_type", settings.get("data_type", "int")))
            )
        return found

    return lookup


def _matched(extra: Mapping[str, Any], matrix: str) -> Any:
    """The first rule whose text is a part of `matrix`, or a pattern for it; None where none is."""
    rules = (own for part, own in extra.items() if part in matrix or re.search(part, matrix))
    return next(rules, None)


def _compressed(settings: Mapping[str, Any]) -> Lookup:
    """A target is a full name, `re:` and a pattern, or the class of a module."""

    def lookup(matrix: str) -> Said:
        if _targeted(matrix, settings.get("ignore") or ()):
            return STAYS
        for group in settings["config_groups"].values():
            if _targeted(matrix, group["targets"]):
                if (weights := group["weights"]) is None:
                    return STAYS
                _require_int(matrix, weights.get("type", "int"))
                return Said(
                    weights["num_bits"],
                    weights.get("group_size") or -1,
                    weights.get("symmetric", True),
                )
        return STAYS

    return lookup


def _targeted(matrix: str, targets: Any) -> bool:
    linear = not matrix.endswith("embed_tokens")
    return any(
        re.match(target[3:], matrix) is not None
        if target.startswith("re:")
        else target == matrix or (target == "Linear" and linear)
        for target in targets
    )


def _mlx(settings: Mapping[str, Any]) -> Lookup:
    base = Said(settings["bits"], settings["group_size"], False)

    def lookup(matrix: str) -> Said:
        own = settings.get(matrix, {})
        if own is False:
            return STAYS
        _require_int(matrix, own.get("mode", settings.get("mode", "affine")))
        return _over(base, own)

    return lookup


def _exl3(place: Path) -> Lookup:
    """`sources` are quantized checkpoints, `overrides` say which tensors come from which; a source
    has the bits that its config.json or the name of its folder says (`…-4.0bpw`). What no override
    names comes from the first source.
    """
    said = yaml.safe_load(place.read_text(encoding="utf-8"))
    bits = {s["id"]: _rate(place.parent / s["model_dir"]) for s in said["sources"]}
    base = list(bits.values())[0]
    overrides = [(o["key"], bits[o["source"]]) for o in said["overrides"]]

    def lookup(matrix: str) -> Said:
        keys = (matrix, f"{matrix}.trellis")  # patterns are written for tensors
        found = [rate for key, rate in overrides if any(fnmatch(k, key) for k in keys)]
        return Said(found[-1] if found else base)

    return lookup


def _rate(folder: Path) -> int:
    """Bits a weight of an EXL3 checkpoint, as a whole width."""
    config = folder / "config.json"
    found: Any = None
    if config.is_file():
        said = json.loads(config.read_text(encoding="utf-8"))
        found = said.get("quantization_config", {}).get("bits")
    elif named := re.search(r"(\d+(?:\.\d+)?) ?bpw", folder.name):
        found = named[1]
    if found is None:
        raise InputError(f"neither {config} nor the folder's name says its bits ('…-4.0bpw')")
    if (rate := float(found)) != int(rate):
        raise InputError(f"{folder} has {rate} bits a weight, a mix itself; its parts are needed")
    return int(rate)


METHODS: dict[str, Callable[[Mapping[str, Any]], Lookup]] = {
    "gptq": _gptq,
    "auto-round": _autoround,
    "intel/auto-round": _autoround,
    "compressed-tensors": _compressed,
    "mlx": _mlx,
}


def _over(base: Said, own: Mapping[str, Any]) -> Said:
    """`base` with what a rule sets."""
    bits = own.get("bits", base.bits)
    if bits >= KEPT:
        return STAYS
    return replace(
        base,
        bits=bits,
        group_size=own.get("group_size", base.group_size),
        symmetric=own.get("sym", base.symmetric),
    )


def _quantizer(said: Any) -> str:
    """The call of a quantizer that has the options of most matrices."""
    quantized = [one for one in said if one.bits != KEPT]
    if any(one.kind for one in quantized):
        pick(QUANTIZERS, "quantizer", "ggml")
        return "ggml"
    sizes = Counter(one.group_size for one in quantized if one.group_size is not None)
    symmetric = Counter(one.symmetric for one in quantized).most_common(1)[0][0]
    size = sizes.most_common(1)[0][0] if sizes else 64
    return f"rtn(group_size={size}, sym={bool(symmetric)})"


def _option(one: Said, group_size: int | None, levels: tuple[Option, ...]) -> Option:
    """The option of `levels` that a file means; of a type of ggml that is none, its bits."""
    if one.bits == KEPT:
        return KEPT
    if one.kind is not None and one.kind in levels:
        return one.kind
    if one.group_size in (None, group_size):
        return one.bits
    return f"{one.bits}g{one.group_size}"


def _shared(unit: str, names: list[str], options: Mapping[str, Option]) -> Option:
    """The option of all matrices of a unit."""
    found = {options[name] for name in names}
    if len(found) > 1:
        raise InputError(
            f"the matrices of {unit} have {sorted(map(str, found))}; read the file for a layout of "
            "granularity='matrix'"
        )
    return found.pop()
