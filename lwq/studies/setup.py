"""One model, one quantizer, one text to calibrate on and one to judge on, and what is made of them
once.
"""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import build, pick, spec
from lwq.contracts import Layout
from lwq.engine.bank import Bank, restore_
from lwq.engine.evaluate import Reference, reference
from lwq.engine.store import Store
from lwq.engine.sweep import Sweep
from lwq.inputs import catalogue, resolve
from lwq.inputs.texts import Drawn, WindowSpec, token_digest
from lwq.quantizers import QUANTIZERS
from lwq.results.measurements import Results

# the carried models were dequantized from groups of 32, which such a grid would reproduce exactly
FORBIDDEN_GROUP = 32


def _shared(make: Callable[["Setup"], Any]) -> Any:
    """A property made when it is first needed, once for all experiments that come from one by
    `using`.
    """

    def get(self: "Setup") -> Any:
        if make.__name__ not in self.held:
            self.held[make.__name__] = make(self)
        return self.held[make.__name__]

    return property(get, doc=make.__doc__)


def _of_text(make: Callable[["Setup"], Any]) -> Any:
    """The same for what is made of the judging windows: that of the text used last is held."""

    def get(self: "Setup") -> Any:
        text, found = self.held.get(make.__name__, (None, None))
        if text != self.judge:
            self.held.pop(make.__name__, None)  # two need not stand in memory together
            found = make(self)
            self.held[make.__name__] = self.judge, found
        return found

    return property(get, doc=make.__doc__)


@dataclass
class Setup:
    """Everything that a study's measurements have in common. What is expensive is made when it is
    first needed.

    Attributes:
        study: name that stands in the rows.
        model: a name for `lwq.load`.
        quantizer: a name, a call in text or an object.
        calibrate, judge: how windows are drawn; scores and quantizers see the first, judgement the
            second.
        results: where measurements are looked up and kept.
        dtype: of the weights that are scored and quantized, and of that arithmetic.
        judge_dtype: of the weights and the arithmetic that plans are judged with; "" is `dtype`.
            Where it is narrower than float32 the ends of a sweep are judged in float32 too.
        stream: keep the weights on disk, as `lwq.load` does: the same numbers, slower, in less
            memory.
        tails: quantiles of KL over tokens stand in the rows, too.
        held: what experiments that come from this one by `using` share with it.
    """

    study: str
    model: str
    quantizer: Any
    calibrate: WindowSpec
    judge: WindowSpec
    results: Results
    dtype: str = "float32"
    judge_dtype: str = ""
    stream: bool = False
    tails: bool = False
    held: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.model = resolve.said(self.model)
        self.judge_dtype = self.judge_dtype or self.dtype
        for name in ("dtype", "judge_dtype"):
            pick(models.DTYPES, name, getattr(self, name))
        self.quantizer = build(QUANTIZERS, "quantizer", self.quantizer)
        if (
            self.model.endswith(catalogue.AS_FILED)
            and getattr(self.quantizer, "group_size", 0) == FORBIDDEN_GROUP
        ):
            raise InputError(
                f"group_size={FORBIDDEN_GROUP} on {self.model!r}: its weights come from a file "
                f"with groups of {FORBIDDEN_GROUP} and would look lossless; use 64, or "
                f"{catalogue.carried(self.model)!r}, whose columns stand in another order"
            )
        if self.judge.n < 2:
            raise InputError(
                f"windows={self.judge.n}: an interval needs two judging windows or "
                f"more; 32 mean something"
            )
        if self.calibrate.split == self.judge.split:
            raise InputError(
                f"calibrating and judging on the same split {self.judge.split!r}; "
                f"use 'calibrate' and 'judge'"
            )

    @_shared
    def loaded(self) -> tuple[nn.Module, Any]:
        return self._load(self.dtype)

    def _load(self, dtype: str) -> tuple[nn.Module, Any]:
        place = ("cuda" if self.stream else "auto") if torch.cuda.is_available() else None
        return models.load(self.model, dtype, device_map=place, stream=self.stream)

    @_shared
    def layout(self) -> Layout:
        """The model's blocks."""
        return models.layout(self.loaded[0])

    @_shared
    def judged(self) -> nn.Module:
        """The model that holds the plans: `loaded` itself, or a copy in `judge_dtype`."""
        model = self.loaded[0]
        return model if self.judge_dtype == self.dtype else self.rounded(self.judge_dtype)

    def rounded(self, dtype: str) -> nn.Module:
        """The untouched model in another dtype."""
        restore_(self.loaded[0])
        return self._load(dtype)[0] if self.stream else models.cast(self.loaded[0], dtype)

    @_shared
    def fingerprint(self) -> str:
        """The model's weights, and the settings that they compute with."""
        model = self.loaded[0]
        restore_(model)
        return f"{models.fingerprint(model)}-{models.configuration(model)}"

    @property
    def arithmetic(self) -> str:
        """Both dtypes, as the rows name them."""
        return (
            self.dtype
            if self.judge_dtype == self.dtype
            else f"{self.judge_dtype} from {self.dtype}"
        )

    @cached_property
    def calibration(self) -> Tensor:
        return self.calibrate.draw(self.loaded[1]).windows

    @_of_text
    def judged_on(self) -> Drawn:
        """The judging windows, and their documents."""
        return self.judge.draw(self.loaded[1])

    @property
    def judging(self) -> Tensor:
        return self.judged_on.windows

    @cached_property
    def bank(self) -> Bank:
        return Bank(self.judged, self.quantizer, self.calibration, Store(), exact=self.loaded[0])

    @_of_text
    def reference(self) -> Reference:
        """The untouched model on the judging windows."""
        restore_(self.judged)
        return reference(self.judged, self.judging, documents=self.judged_on.documents)

    @cached_property
    def engine(self) -> Sweep:
        """Measures plans on the judging windows."""
        return Sweep(self.judged, self.judging, self.bank, self.reference, tails=self.tails)

    def using(
        self,
        quantizer: Any = None,
        calibrate: WindowSpec | None = None,
        judge: WindowSpec | None = None,
    ) -> Self:
        """The same with another quantizer, other calibration or other judging windows; the loaded
        model is shared, and the reference where the judging windows are the same.
        """
        other = copy.copy(self)
        # what was made of the old ones goes; what all share stands in `held`
        kept = {"calibration"} if calibrate is None else set()
        if quantizer is None and calibrate is None:
            kept.add("bank")
        made = {
            key
            for kind in type(self).__mro__
            for key, value in vars(kind).items()
            if isinstance(value, cached_property)
        }
        other.__dict__ = {
            key: value for key, value in self.__dict__.items() if key not in made - kept
        }
        other.quantizer = self.quantizer if quantizer is None else quantizer
        other.calibrate = calibrate or self.calibrate
        other.judge = judge or self.judge
        other.__post_init__()
        return other

    def release(self) -> None:
        """Let go of the model and of all that holds it, so that another one has room; what is
        needed again is made again.
        """
        if "bank" in self.__dict__:
            self.bank.release()  # the model holds it, too
        for name in ("loaded", "judged", "reference"):
            self.held.pop(name, None)
        for name in ("bank", "engine"):
            self.__dict__.pop(name, None)
        gc.collect()  # hooks hold models in circles
        models.give_back()

    def units(self, granularity: str = "block", outside: bool = False) -> Layout:
        """The model's units; `outside`: embeddings and head too."""
        restore_(self.loaded[0])
        return models.layout(self.loaded[0], granularity, outside)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns that all rows of this experiment share."""
        return {
            "study": self.study,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "quantizer": spec(QUANTIZERS, self.quantizer),
            "calibration": f"{self.calibrate} #{token_digest(self.calibration)}",
            "judge": f"{self.judge} #{token_digest(self.judging)}",
            "dtype": self.arithmetic,
        }
