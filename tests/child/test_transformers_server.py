"""The transformers server's computing against transformers' and peft's own: joined, alone, with adapters, in beams."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from export_fixtures import llama, lora, save_tokenizer
from peft import PeftModel
from transformers import AutoModelForCausalLM, MambaConfig, OpenAIGPTConfig, PreTrainedConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference_worker.child.transformers_server import asking, model
from inference_worker.child.transformers_server.adapters import Adapters, merged, shares
from inference_worker.child.transformers_server.answering import joined
from inference_worker.child.transformers_server.batch import MAX_DIFFERENCE, is_joinable, trial
from inference_worker.child.transformers_server.refusal import Refusal
from inference_worker.child.transformers_server.sampling import Sampling, draw
from inference_worker.child.transformers_server.scheduler import Limits, Scheduler
from inference_worker.child.transformers_server.sequence import Answer, Decoder, Piece, Task
from inference_worker.child.transformers_server.whole import Whole

PROMPTS = ["a", "The sky is", "What is two and two? " * 3, "x" * 40, "no"]


def load(folder: Path) -> model.Served:
    source = model.Source(
        folder=str(folder), dtype="float32", max_model_len=256, chat_template=None, chat_template_kwargs={},
        generation=str(folder), trust_remote_code=False, num_devices=1,
    )  # fmt: skip
    return model.load(source)


class Server:
    """One model and its thread; what is asked of it waits for all answers."""

    def __init__(self, folder: Path, **limits: int):
        self.folder = folder
        self.served = load(folder)
        self.adapters = Adapters(self.served.model, max_rank=64)
        given = {"max_num_seqs": 4, "cache_bytes": 0, "bytes_per_token": 0, "chunk_tokens": 16} | limits
        self.together = Scheduler(self.served.model, self.served.device, self.adapters, Limits(**given))
        self.alone = Whole(self.served, self.adapters)
        threading.Thread(target=self.together.run, daemon=True).start()

    def ask(self, bodies: list[dict[str, Any]], adapter: Any = None, alone: bool = False) -> list[list[Piece]]:
        """The choices of each request, all of them submitted at once."""
        waiting = []
        for body in bodies:
            asked = asking.completion({"ignore_eos": True, "temperature": 0} | body, self.served, body.get("model"))
            told: queue.Queue[Any] = queue.Queue()
            for task in asked.tasks(self.served, random.Random(0), told.put):
                (self.alone if alone or task.num_beams > 1 else self.together).submit(task)
            waiting.append((told, len(asked.prompts) * asked.num_answers))
        return [joined(collect(*one)) for one in waiting]


def collect(told: queue.Queue[Any], num_answers: int) -> list[Piece]:
    pieces: list[Piece] = []
    while sum(piece.finish_reason is not None for piece in pieces) < num_answers:
        piece = told.get(timeout=60)
        assert isinstance(piece, Piece), piece
        pieces.append(piece)
    return pieces


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(llama(tmp_path_factory.mktemp("models") / "tiny", dtype=torch.float32))
    yield made
    made.together.stop()


def reference(served: model.Served, prompt: str, network: Any = None, **options: Any) -> list[int]:
    """transformers' own answer."""
    ids = torch.tensor([served.tokenizer(prompt)["input_ids"]])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    with torch.no_grad():
        found = (network or served.model).generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found[0, ids.shape[1] :].tolist()


def test_answers_that_join_and_leave_a_batch_are_those_that_each_gets_alone(server: Server) -> None:
    lengths = [3, 40, 12, 25, 60]
    bodies = [{"prompt": text, "max_tokens": most} for text, most in zip(PROMPTS, lengths, strict=True)]
    found = server.ask([*bodies, {"prompt": PROMPTS, "max_tokens": 9, "n": 2}])

    told = [list(choices[0].token_ids) for choices in found[:-1]]
    assert told == [
        reference(server.served, text, max_new_tokens=most) for text, most in zip(PROMPTS, lengths, strict=True)
    ]
    assert [piece.index for piece in found[-1]] == list(range(10))
    assert [list(piece.token_ids) for piece in found[-1][::2]] == [
        reference(server.served, text, max_new_tokens=9) for text in PROMPTS
    ]
    assert server.together.num_running == server.together.num_waiting == 0
    assert is_joinable(server.served.model, server.served.device)


def test_rows_with_adapters_are_beside_rows_without_as_peft_computes_each(server: Server, tmp_path: Path) -> None:
    wide, narrow = lora(server.folder, tmp_path / "wide", r=16), lora(server.folder, tmp_path / "narrow", seed=5)
    server.adapters.load("base@wide.v1", wide)
    server.adapters.load("narrow", narrow)
    names: list[str | None] = [None, "base@wide.v1", "narrow", "base@wide.v1", None]
    bodies = [{"prompt": text, "max_tokens": 20, "model": name} for text, name in zip(PROMPTS, names, strict=True)]
    found = server.ask(bodies)

    for text, name, choices in zip(PROMPTS, names, found, strict=True):
        plain: Any = AutoModelForCausalLM.from_pretrained(server.folder, dtype=torch.float32)
        folder = {"base@wide.v1": wide, "narrow": narrow}.get(name or "")
        network = PeftModel.from_pretrained(plain, folder) if folder else plain
        assert list(choices[0].token_ids) == reference(server.served, text, network, max_new_tokens=20), name
    with pytest.raises(Refusal, match="loaded already"):
        server.adapters.load("narrow", narrow)
    for name in ("base@wide.v1", "narrow"):
        server.adapters.unload(name)
    assert list(server.ask([bodies[0]])[0][0].token_ids) == list(found[0][0].token_ids)


def test_an_answer_keeps_an_adapter_that_is_unloaded_until_it_ends(server: Server, tmp_path: Path) -> None:
    server.adapters.load("short", lora(server.folder, tmp_path / "short", r=16))
    body = {"prompt": PROMPTS[0], "max_tokens": 200}
    [[expected]] = server.ask([body | {"model": "short"}])
    asked = asking.completion({"ignore_eos": True, "temperature": 0} | body, server.served, "short")
    told: queue.Queue[Any] = queue.Queue()
    [task], [late] = (asked.tasks(server.served, random.Random(0), told.put) for _ in range(2))
    server.together.submit(task)
    first = told.get(timeout=60)

    server.adapters.unload("short")

    assert "short" not in server.adapters and server.adapters.are_on("short")
    with pytest.raises(Refusal, match="load it later"):
        server.adapters.load("short", tmp_path / "short")
    [found] = joined([first, *collect(told, 1)])
    assert found.token_ids == expected.token_ids != server.ask([body])[0][0].token_ids
    assert not server.adapters.are_on("short")
    server.together.submit(late)
    assert told.get(timeout=60).status == 404


def test_adapters_that_cannot_share_a_batch_are_refused(server: Server, tmp_path: Path) -> None:
    for options, why in (({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")):
        folder = lora(server.folder, tmp_path / why, **options)
        with pytest.raises(Refusal, match=why):
            server.adapters.load(why, folder)
    with pytest.raises(Refusal, match="rank 128"):
        server.adapters.load("large", lora(server.folder, tmp_path / "large", r=128))
    wider = llama(tmp_path / "wider", hidden_size=96, dtype=torch.float32)
    with pytest.raises(Refusal, match="cannot be put on the model"):
        server.adapters.load("of another base", lora(wider, tmp_path / "other"))
    assert server.ask([{"prompt": "a", "max_tokens": 3}])[0][0].finish_reason == "length"


def test_an_adapter_that_no_batch_can_have_beside_others_is_merged(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", dtype=torch.float32)
    folder = lora(base, tmp_path / "dora", use_dora=True, modules_to_save=["lm_head"])
    assert not shares(folder, 64)
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = reference(load(base), "The sky", PeftModel.from_pretrained(plain, folder), max_new_tokens=20)
    served = load(base)
    assert reference(served, "The sky", max_new_tokens=20) != expected
    assert reference(served, "The sky", merged(served.model, folder), max_new_tokens=20) == expected


def test_beams_are_transformers_own(server: Server) -> None:
    [choices] = server.ask([{"prompt": "The sky is", "max_tokens": 12, "num_beams": 4, "n": 2, "length_penalty": 0.5}])
    options = {"max_new_tokens": 12, "num_beams": 4, "length_penalty": 0.5}
    assert list(choices[0].token_ids) == reference(server.served, "The sky is", **options)
    assert choices[1].token_ids != choices[0].token_ids
    with pytest.raises(Refusal, match="'stream' cannot be had with beams"):
        server.ask([{"prompt": "x", "num_beams": 2, "stream": True}])


RECURRENT = MambaConfig(vocab_size=258, hidden_size=32, num_hidden_layers=2, state_size=4)
#: The first GPT keeps no cache at all; vLLM does not know it.
WITHOUT_CACHE = OpenAIGPTConfig(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=64)


@pytest.mark.parametrize("config", [RECURRENT, WITHOUT_CACHE], ids=["recurrent", "without cache"])
def test_models_whose_answers_cannot_be_joined_give_them_one_by_one(config: PreTrainedConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    server = Server(tmp_path)
    assert not is_joinable(server.served.model, server.served.device)
    [choices, drawn] = server.ask(
        [{"prompt": "abc", "max_tokens": 10}, {"prompt": "abc", "max_tokens": 10, "temperature": 1, "n": 3, "seed": 7}],
        alone=True,
    )
    assert list(choices[0].token_ids) == reference(server.served, "abc", max_new_tokens=10)
    assert len({piece.token_ids for piece in drawn}) == 3


def test_a_model_that_reads_padding_is_found_out_by_trial(server: Server) -> None:
    class Reading(torch.nn.Module):
        def forward(self, attention_mask: torch.Tensor, **inputs: Any) -> Any:
            return server.served.model(attention_mask=torch.ones_like(attention_mask), **inputs)

    assert trial(server.served.model, server.served.device) < 1e-4
    assert trial(Reading(), server.served.device) > MAX_DIFFERENCE


def test_a_seed_draws_the_same_whatever_is_computed_beside_it(server: Server) -> None:
    body = {"prompt": "The sky is", "max_tokens": 30, "temperature": 1.0, "top_p": 0.9, "seed": 11}
    [alone] = server.ask([body])
    others = [{"prompt": text, "max_tokens": 20, "temperature": 1.0} for text in PROMPTS]
    assert server.ask([*others, body])[-1][0].token_ids == alone[0].token_ids
    assert server.ask([{**body, "seed": 12}])[0][0].token_ids != alone[0].token_ids


def test_minus_one_is_no_seed_as_at_vllm() -> None:
    chance = random.Random(0)
    seeds = {asking.generator(torch.device("cpu"), -1, 0, chance).initial_seed() for _ in range(3)}
    assert len(seeds) == 3


class Row:
    """What draw() looks at."""

    def __init__(self, sampling: Sampling, ids: list[int]):
        self.sampling, self.prompt_ids, self.ids = sampling, [3, 4], ids
        self.generator, self.constraint = torch.Generator().manual_seed(0), None


@pytest.mark.parametrize(
    ("given", "warpers"),
    [
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"top_k": 20, "top_p": 0.5, "temperature": 0.7},
         [TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.5)]),
        ({"min_p": 0.2, "temperature": 1.5}, [TemperatureLogitsWarper(1.5), MinPLogitsWarper(0.2)]),
        ({"repetition_penalty": 1.8}, [RepetitionPenaltyLogitsProcessor(1.8)]),
    ],
)  # fmt: skip
def test_tokens_are_drawn_as_transformers_would(given: dict[str, Any], warpers: list[Any]) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 2
    row = Row(Sampling(**given), ids=[7, 7, 9])
    expected = LogitsProcessorList(warpers)(torch.tensor([[3, 4, 7, 7, 9]]), logits[None].clone())[0].softmax(dim=0)
    counts = Counter(draw(row, logits).token_id for _ in range(4000))

    frequencies = torch.tensor([counts[token] / 4000 for token in range(40)])
    assert set(counts) <= set(expected.nonzero().flatten().tolist())
    assert (frequencies - expected).abs().max() < 0.025


def test_penalties_biases_and_the_least_length_are_vllms() -> None:
    logits = torch.zeros(10)
    sampling = Sampling(
        presence_penalty=0.5, frequency_penalty=0.25, logit_bias={2: 3.0}, min_tokens=5, temperature=0,
        eos_token_ids=frozenset({1}), stop_token_ids=frozenset({2}), num_logprobs=2,
    )  # fmt: skip
    logits[1], logits[8], logits[7] = 4.0, 1.0, 1.2
    drawn = draw(Row(sampling, ids=[7, 7]), logits)
    # 7 appeared twice: 1.2 - 0.5 - 2 * 0.25; 1 and 2 would end the answer.
    assert drawn.token_id == 8
    assert drawn.logprob is not None and drawn.logprob.top[0][0] == 1
    assert drawn.logprob.logprob == pytest.approx(float(logits.log_softmax(0)[8]))


def fed(server: Server, text: str, **sampling: Any) -> tuple[Answer, list[Piece]]:
    """An answer that is given `text` byte by byte."""
    told: list[Any] = []
    prompt_ids = server.served.tokenizer("x")["input_ids"]
    given = Sampling(max_tokens=100, **sampling)
    answer = Answer(
        index=0, prompt_ids=prompt_ids, sampling=given, generator=torch.Generator(), sink=told.append,
        decoder=Decoder(server.served.tokenizer, prompt_ids, True),
    )  # fmt: skip
    for token_id in server.served.tokenizer(text, add_special_tokens=False)["input_ids"]:
        if not answer.is_finished:
            answer.accept(
                draw(Row(Sampling(temperature=0), []), torch.nn.functional.one_hot(torch.tensor(token_id), 258).float())
            )
    return answer, told


def test_what_may_begin_a_stop_text_is_kept_back_until_it_is_known(server: Server) -> None:
    answer, told = fed(server, "one END", stop=("END", "never"))
    assert "".join(piece.text for piece in told) == "one "
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "END")
    assert all("E" not in piece.text for piece in told)
    assert fed(server, "one END", stop=("END",), include_stop_str_in_output=True)[1][-1].text.endswith("END")


def test_a_character_of_several_tokens_is_told_when_it_is_whole(server: Server) -> None:
    _, told = fed(server, "\N{GRINNING FACE}a\N{LATIN SMALL LETTER E WITH ACUTE}b")
    assert [piece.text for piece in told] == ["\N{GRINNING FACE}", "a", "\N{LATIN SMALL LETTER E WITH ACUTE}", "b"]
    assert [len(piece.token_ids) for piece in told] == [4, 1, 2, 1]


def test_a_task_for_which_nobody_waits_leaves_the_batch(server: Server) -> None:
    told: queue.Queue[Any] = queue.Queue()
    asked = asking.completion({"prompt": "a", "max_tokens": 200, "ignore_eos": True, "n": 4}, server.served, None)
    [task] = asked.tasks(server.served, random.Random(0), told.put)
    server.together.submit(task)
    told.get(timeout=30)
    # It fills the server: what is asked now waits until it has left.
    task.cancelled = True
    assert server.ask([{"prompt": "b", "max_tokens": 3}])[0][0].finish_reason == "length"
    assert not any(answer.is_finished for answer in task.answers)


def test_what_is_too_long_or_unknown_is_refused_with_its_member(server: Server) -> None:
    for body, field in (
        ({"prompt": "x" * 300}, "prompt"),
        ({"prompt": "x", "max_tokens": 256}, "max_tokens"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
    ):
        with pytest.raises(Refusal) as refused:
            asking.completion(body, server.served, None)
        assert refused.value.field == field
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    spoken = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    with pytest.raises(Refusal, match="use engine vllm"):
        asking.chat(spoken, server.served, None)
    assert asking.chat({**spoken, "tool_choice": "none"}, server.served, None).prompts[0]


def test_a_request_for_the_impossible_fails_alone(server: Server) -> None:
    told: queue.Queue[Any] = queue.Queue()
    body = {"prompt": "a", "temperature": 1, "allowed_token_ids": [1], "min_tokens": 3, "max_tokens": 5}
    [task] = asking.completion(body, server.served, None).tasks(server.served, random.Random(0), told.put)
    server.together.submit(task)
    assert list(server.ask([{"prompt": "b", "max_tokens": 30}])[0][0].token_ids) == reference(
        server.served, "b", max_new_tokens=30
    )
    assert isinstance(told.get(timeout=30), RuntimeError)


def test_a_failing_step_is_told_to_those_who_were_in_it_and_others_go_on(server: Server) -> None:
    told: queue.Queue[Any] = queue.Queue()
    broken = Task(prompt_ids=[100_000], answers=[], sink=told.put)
    server.together.submit(broken)
    assert isinstance(told.get(timeout=30), IndexError)
    assert server.ask([{"prompt": "b", "max_tokens": 3}])[0][0].finish_reason == "length"
