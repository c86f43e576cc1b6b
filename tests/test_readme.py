"""What the README shows runs as it stands.

pytest tests/test_readme.py
"""

import re
from pathlib import Path

import lwq

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_scorer_of_the_readme_works(tmp_path, monkeypatch, toy, windows):
    code = re.search(r"# my_scorers.py\n.*?(?=```)", README, re.DOTALL)[0]
    (tmp_path / "my_scorers.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    scores = lwq.score(toy[0], "my_scorers.py:Growth", windows)
    assert min(scores.values()) > 0 and len(set(scores.values())) == len(scores)


def test_the_python_of_the_readme_runs(toy):
    code = re.search(r"```python\n(import lwq\n.*?)```", README, re.DOTALL)[1]
    for name, smaller in {
        '"smollm2-135m"': '"toy"',
        '"c4"': '"toy"',
        '"wiki"': '"toy"',
        'size="95MB")': 'size="120kB", windows=few("calibrate"), tune=few("tune"))',
        "n=64, length=512": "n=4, length=48",
        "n=32, length=256": "n=4, length=48",
    }.items():
        assert name in code
        code = code.replace(name, smaller)
    few = lambda split: lwq.windows("toy", toy[1], n=20, length=48, split=split)  # noqa: E731
    found: dict = {"few": few}
    exec(code, found)
    assert found["losses"].mean_kl > 0
    assert found["plan"].size(lwq.QUANTIZERS["gptq"]()).total_bytes <= 120_000


def test_the_allocator_of_contributing_works(tmp_path, monkeypatch, toy):
    code = re.search(r"# my_allocators.py\n.*?(?=```)", CONTRIBUTING, re.DOTALL)[0]
    (tmp_path / "my_allocators.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    scores = lwq.score(toy[0], "zd")
    plan = lwq.allocate(scores, None, (4, 2), "rtn", "my_allocators.py:LastFirst", avg_bits=3)
    assert list(plan.bits.values()) == [4, 4, 2, 2]


def test_the_first_command_is_near_the_top_and_the_page_is_short():
    lines = README.splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("make report")) < 20
    assert len(lines) <= 120
