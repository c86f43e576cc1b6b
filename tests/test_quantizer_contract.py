"""A quantizer of a user's own that is not what it says is refused by name at its first matrix.

pytest tests/test_quantizer_contract.py
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import lwq
from lwq.quantizers.rtn import RTN
from lwq.quantizers.shared import contract
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class Unrounded(RTN):
    """Float codes: as good as lossless, at a size that no file could have."""

    def __call__(self, weight, bits, stats=None):
        made = super().__call__(weight, bits)
        return replace(made, codes=made.codes.float() + 0.25)


@dataclass(frozen=True)
class TooHigh(RTN):
    """Codes that do not fit their bits."""

    def __call__(self, weight, bits, stats=None):
        made = super().__call__(weight, bits)
        return replace(made, codes=made.codes + 2**bits)


@dataclass(frozen=True)
class Boasting(RTN):
    """One bit a weight, it says."""

    def nbytes(self, shape, bits):
        return shape[0] * shape[1] // 8


@dataclass(frozen=True)
class Bare(RTN):
    """Weights that nobody packed."""

    def __call__(self, weight, bits, stats=None):
        return super().__call__(weight, bits).dequantize()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Unrounded, "codes are torch.float32"),
        (TooHigh, "does not fit 4 bits"),
        (Boasting, "nbytes says"),
        (Bare, "returned a Tensor"),
    ],
)
def test_a_false_quantizer_is_refused_at_its_first_matrix(kind, said, toy):
    model, _ = toy
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = lwq.allocate(lwq.score(model, "zd"), model, bits=(4,), moved=0, quantizer=kind())
    with pytest.raises(lwq.InputError, match=f"q_proj: {kind.__name__}.*{said}"):
        lwq.quantize_(model, plan)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_lacking_is_said_before_the_work(toy):
    @dataclass(frozen=True)
    class Half:
        def __call__(self, weight, bits, stats=None): ...

    with pytest.raises(lwq.InputError, match="Half lacks levels .*; nbytes .*; needs"):
        lwq.allocate(lwq.score(toy[0], "zd"), bits=(4,), moved=0, quantizer=Half())


def test_a_true_one_is_looked_at_once(monkeypatch):
    monkeypatch.setattr(contract, "_seen", set())
    weight = torch.randn(8, 64)
    contract.require_true(RTN(), 4, weight, RTN()(weight, 4))
    assert len(contract._seen) == 1
    monkeypatch.setattr(lwq.Packed, "require_sound", lambda *_: pytest.fail("looked at twice"))
    contract.require_true(RTN(), 4, weight, RTN()(weight, 4))


def test_the_quantizer_of_the_guide_works(tmp_path, monkeypatch, toy):
    guide = (Path(__file__).parents[1] / "docs/guide.md").read_text(encoding="utf-8")
    code = re.search(r"# my_quantizers.py\n.*?(?=```)", guide, re.DOTALL)[0]
    (tmp_path / "my_quantizers.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    model, _ = toy
    plan = lwq.allocate(
        lwq.score(model, "zd"), model, bits=(8, 4), moved=2, quantizer="my_quantizers.py:Rows"
    )
    errors = list(lwq.quantize_(model, plan).values())
    assert all(0 < error < 0.2 for error in errors) and min(errors) < 0.02


def test_a_class_written_again_under_its_name_is_looked_at_again():
    weight = torch.randn(8, 64)
    contract.require_true(RTN(), 4, weight, RTN()(weight, 4))
    again = type("RTN", (Boasting,), {"__repr__": lambda self: repr(RTN())})()
    assert repr(again) == repr(RTN())
    with pytest.raises(lwq.InputError, match="nbytes says"):
        contract.require_true(again, 4, weight, again(weight, 4))


@pytest.mark.parametrize("part", ["scales", "zeros"])
def test_numbers_that_are_not_finite_are_refused_each_time(part):
    """Scales of NaN left a NaN model, and a harm that a running maximum hid."""
    rtn = lwq.QUANTIZERS["rtn"]()
    weight = torch.randn(8, 64)
    made = rtn(weight, 4, MatrixStats())
    contract.require_true(rtn, 4, weight, made)  # this shape was found true
    broken = replace(made, **{part: torch.full_like(made.scales, torch.nan)})
    with pytest.raises(lwq.InputError, match="RTN made NaN or Inf of a matrix at 4 bits"):
        contract.require_true(rtn, 4, weight, broken)
