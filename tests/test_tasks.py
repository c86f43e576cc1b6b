"""Tasks: lm-eval's own questions, our own way of asking several at once."""

from types import SimpleNamespace

import architectures
import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

import lwq
from lwq import models
from lwq.engine import likelihoods, tasks
from lwq.engine.bank import Bank
from lwq.engine.likelihoods import loglikelihoods
from lwq.inputs import assets, texts
from lwq.quantizers.rtn import RTN

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
ASKED = [
    ("the layer keeps", " four bits."),
    ("the layer keeps", " its weights, and nothing changes."),
    ("the layer keeps", " a"),
    ("every head ranks ", "two bits"),
    ("every head ranks ", "its importance, which is cheap"),
    ("one matrix", " rounds"),
]


class Letters:
    """One token a letter, for any vocabulary."""

    bos_token = eos_token = None

    def __init__(self, vocabulary):
        self.vocabulary, self.input_ids = vocabulary, []

    def __call__(self, text, **options):
        found = Letters(self.vocabulary)
        found.input_ids = [1 + ord(letter) % (self.vocabulary - 1) for letter in text]
        return found


def slow_twin(model, tokenizer, requests):
    """One plain forward pass a request."""
    found = []
    for context, continuation in requests:
        before, answer = likelihoods.encode(model, tokenizer, context, continuation)
        with torch.inference_mode():
            logits = model(torch.tensor([before + answer]), use_cache=False).logits[0].float()
        log_p = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
        wanted = torch.tensor(answer)
        found.append(
            (
                float(log_p.gather(-1, wanted[:, None]).sum()),
                bool((log_p.argmax(-1) == wanted).all()),
            )
        )
    return found


def require_equal(found, slow):
    assert [a for a, _ in found] == pytest.approx([a for a, _ in slow], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in slow]


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_packed_questions_equal_plain_ones(name):
    """On every architecture: where a packed row is not the same thing, requests go one by one."""
    model = architectures.make(name)
    tokenizer = Letters(models.vocabulary(model))
    require_equal(loglikelihoods(model, tokenizer, ASKED), slow_twin(model, tokenizer, ASKED))


def test_a_question_longer_than_the_sliding_window_goes_alone(monkeypatch):
    model = architectures.make("mistral")
    window = model.config.sliding_window
    asked = [("a" * (window - 4), answer) for answer in ("bb", "cc", "d" * 30)]
    short = [("a" * 5, answer) for answer in ("bb", "cc")]
    rows, real = [], likelihoods._packed
    monkeypatch.setattr(
        likelihoods,
        "_packed",
        lambda model, batch, encoded: rows.append(len(batch)) or real(model, batch, encoded),
    )
    tokenizer = Letters(models.vocabulary(model))
    require_equal(
        loglikelihoods(model, tokenizer, [*short, *asked]),
        slow_twin(model, tokenizer, [*short, *asked]),
    )
    assert rows == [1], "the trial of the short question"


def local(kind):
    """A decoder whose local layers see back 32 tokens, said in a setting of its own kind."""
    from transformers import Gemma3Config, GPTNeoConfig

    torch.manual_seed(0)
    if kind == "gpt_neo":
        config = GPTNeoConfig(
            vocab_size=257,
            hidden_size=64,
            num_layers=4,
            num_heads=4,
            attention_types=[[["global", "local"], 2]],
            window_size=32,
            max_position_embeddings=512,
            intermediate_size=128,
            initializer_range=0.1,
        )
    else:
        text = {
            **{k: v for k, v in architectures.COMMON.items() if k != "vocab_size"},
            "vocab_size": 257,
            "head_dim": 16,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        }
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
        config = Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_id=255,
            boi_token_id=254,
            eoi_token_id=253,
        )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["gpt_neo", "gemma3"])
def test_a_window_of_another_name_or_place_is_honoured(kind):
    """The first question is short: packed rows that it allows would be wrong for the others."""
    model, (_, tokenizer) = local(kind), lwq.load("toy")
    assert models.reach(model.config) == 32
    start = "The cook opened the oven, took out the bread and put it on"
    asked = [("One plus one is", " two"), ("One plus one is", " nine")]
    asked += [(start, f" the {thing} in the corner.") for thing in ("table", "stove", "floor")]
    require_equal(loglikelihoods(model, tokenizer, asked), slow_twin(model, tokenizer, asked))


def bos_first(pattern="<s> $A"):
    """A tokenizer that puts a BOS before each text, as those of Llama 3 and Mistral do."""
    _, tokenizer = lwq.load("toy")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=pattern, special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("pattern", ["<s> $A", "$A", "<s> <s> $A"])
@pytest.mark.parametrize("request_", [*ASKED, ("<s>the layer", " keeps"), ("<|end|>a", "b")])
def test_questions_are_encoded_as_lm_eval_encodes_them(request_, pattern):
    from lm_eval.models.huggingface import HFLM

    tokenizer = bos_first(pattern)
    model = architectures.make("llama")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer)._encode_pair(*request_)
    assert [list(part) for part in likelihoods.encode(model, tokenizer, *request_)] == list(theirs)
    first = [tokenizer.bos_token_id] * pattern.count("<s>")
    window = lwq.windows("toy", tokenizer, n=1, length=8)[0].tolist()
    assert texts.prefix(tokenizer) == first == window[: len(first)]


def test_plans_with_dropped_blocks_answer_too(toy):
    model, tokenizer = toy
    layout = models.layout(model)
    plan = lwq.Plan(dict(zip(layout.units, (4, 0, 2, 16), strict=True)), layout, "rtn()")
    before = loglikelihoods(model, tokenizer, ASKED)
    bank = Bank(model, RTN())
    bank.apply_(plan)
    found = loglikelihoods(model, tokenizer, ASKED)
    require_equal(found, slow_twin(model, tokenizer, ASKED))
    bank.restore_()
    assert found != before == loglikelihoods(model, tokenizer, ASKED)


def test_contexts_are_computed_once(toy, monkeypatch):
    model, tokenizer = toy
    seen, real = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, **more: seen.append(ids.numel()) or real(ids, **more)
    )
    monkeypatch.setattr(likelihoods, "TOKENS", 90)
    asked = [(f"{before} {n}", answer) for n in range(10) for before, answer in ASKED]
    loglikelihoods(model, tokenizer, asked)
    alone = sum(len("".join(request)) - 1 for request in asked)
    tried = 3 * (6 + 2)  # at most three passes are tried, of a few requests each
    assert sum(seen[tried:]) < 0.5 * alone


def test_encode_moves_spaces_and_refuses_what_is_too_long(toy):
    model, tokenizer = toy
    before, answer = likelihoods.encode(model, tokenizer, "every head ranks ", "two")
    assert tokenizer.decode(before) == "every head ranks" and tokenizer.decode(answer) == " two"
    with pytest.raises(lwq.InputError, match="does not fit a context of 512"):
        likelihoods.encode(model, tokenizer, "a", "b" * 600)
    before, _ = likelihoods.encode(model, tokenizer, "a" * 600, "b" * 10)
    assert len(before) == 512 + 1 - 10


def test_errors_name_the_way_out():
    with pytest.raises(
        lwq.InputError,
        match=r"unknown task 'hellaswagg' \(did you mean "
        r"'hellaswag'",
    ):
        tasks.evaluate_tasks(None, None, ["hellaswagg"])


@pytest.mark.parametrize(
    ("name", "dataset", "split"),
    [("hellaswag", "Rowan/hellaswag", "validation"), ("arc_easy", "allenai/ai2_arc", "test")],
)
def test_with_a_hub_the_stock_task_is_taken_as_it_is(name, dataset, split, monkeypatch):
    asked = []
    monkeypatch.setattr(tasks, "_task", lambda config: asked.append(config) or config)
    assert list(tasks.stock_tasks(name)) == asked and len(asked) == 1
    assert asked[0]["dataset_path"] == dataset and asked[0]["task"] == name
    assert asked[0].get(f"{split}_split") == split and "data_files" not in str(asked[0])


@pytest.mark.assets
@pytest.mark.parametrize("name", ["hellaswag", "arc_easy", "piqa"])
def test_requests_are_those_of_the_stock_task(name, monkeypatch):
    """The stock definition, its download replaced by the same items under its own split names."""
    from pathlib import Path

    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    file = assets.fetch(name) / "validation" / "data.arrow"
    # in memory: no cache beside the asset
    rows = datasets.Dataset.from_list(datasets.Dataset.from_file(str(file)).to_list())
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / tasks.STOCK[name])

    def download(self, *args, **kwargs):
        self.dataset = datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr(ConfigurableTask, "download", download)
    stock = ConfigurableTask(config=config)
    monkeypatch.undo()
    (local,) = tasks.local_tasks(name)
    ours, theirs = list(local.eval_docs), list(stock.eval_docs)
    assert len(ours) == len(theirs) == {"hellaswag": 10042, "arc_easy": 570, "piqa": 1838}[name]
    for index in np.random.default_rng(0).choice(len(ours), 50, replace=False):
        assert tasks.requests(local, ours[index]) == tasks.requests(stock, theirs[index])


@pytest.mark.assets
@pytest.mark.parametrize("name", list(tasks.STOCK))
def test_every_task_asks_and_marks(name):
    items = 8
    found = tasks.questions(name, items)
    assert len(found) == items and found[0].requests == tasks.questions(name, items)[0].requests
    assert [q.requests for q in tasks.questions(name, items, seed=1)] != [q.requests for q in found]
    for question in found:
        marks = []
        for right in range(len(question.requests)):
            marks.append(
                question.correct(
                    [(0.0 if i == right else -1e6, False) for i in range(len(question.requests))]
                )
            )
        assert sorted(marks) == [0.0] * (len(marks) - 1) + [1.0], "exactly one answer is right"
    if name == "arc_easy":
        with pytest.raises(lwq.InputError, match="arc_easy has 570 items, not 571"):
            tasks.questions(name, 571)


@pytest.mark.parametrize("items", [-1, 0, 3])
def test_a_sample_has_one_item_or_more(monkeypatch, items):
    monkeypatch.setattr(tasks, "local_tasks", lambda name: [SimpleNamespace(eval_docs=["a", "b"])])
    with pytest.raises(lwq.InputError, match=f"piqa has 2 items, not {items}; ask for 1 or more"):
        tasks.questions("piqa", items)


@pytest.mark.assets
def test_the_same_answers_as_lm_eval():
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = lwq.load("smollm2-135m")
    found = tasks.questions("hellaswag", 6)
    asked = [request for question in found for request in question.requests]
    instances = [
        instance
        for question in found
        for instance in question.task.construct_requests(
            doc=question.doc, ctx=question.requests[0][0], metadata=("hellaswag", 0, 1)
        )
    ]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).loglikelihood(
        instances, disable_tqdm=True
    )
    require_equal(
        loglikelihoods(model, tokenizer, asked),
        [(float(a), bool(b)) for a, b in theirs],
    )
