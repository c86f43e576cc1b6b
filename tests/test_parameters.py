"""What a study cannot do is said before a model is loaded."""

import pytest

import lwq
from lwq import models
from lwq.studies import grid


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"low": 5}, "low=5: less than high=4 is needed"),
        ({"high": 9}, r"high=9: rtn has the widths \[2, 3, 4.*0 and 16"),
        ({"low": 4}, "low=4: less than high=4"),
        ({"group_size": 7}, "group_size=7 and model 'toy', .*does not divide 64 input columns"),
        ({"group_size": 48, "model": "toy-8"}, "group_size=48 and model 'toy-8'"),
    ],
)
def test_widths_and_groups_that_do_not_fit_are_refused(parameters, message, monkeypatch):
    monkeypatch.setattr("lwq.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(lwq.InputError, match=message):
        grid.points("orderings", "smoke", {"quantizer": "rtn", **parameters})


def test_groups_are_checked_against_a_folder_by_its_configuration(toy, tmp_path):
    for part in toy:
        part.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    name = str(tmp_path / "saved")
    assert models.outline(name) == models.outline("toy")
    with pytest.raises(lwq.InputError, match="group_size=48 and model .*saved"):
        grid.points("orderings", "smoke", {"model": name, "group_size": 48, "quantizer": "rtn"})


def test_every_size_of_every_study_passes():
    for study in grid.names().keys() - {"template"}:
        for size in ("smoke", "quick", "laptop"):
            assert grid.points(study, size)
