"""What makes a training fast, and what is told of it: operations, memory, start-up, attention of short samples."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from training import environment, make_attempt, train_here
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from shared import schema
from shared.spec import TrainSpec
from trainer_worker.child import adapted, attention, flops, liger, memory, model, norms, precision, prepare
from trainer_worker.child.startup import Startup, process_began
from trainer_worker.child.throughput import Throughput

#: Of the tiny model: hidden 64, MLP 128, four heads and two of keys of 16, two layers.
BODY = 2 * (64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128)


def test_operations_are_those_of_the_mathematics(tiny: Path) -> None:
    made = AutoModelForCausalLM.from_pretrained(tiny)
    whole = flops.cost(made)
    for weight in made.parameters():
        weight.requires_grad_(False)
    frozen = flops.cost(made)

    num_words = made.config.vocab_size
    assert whole == flops.Cost(token=6 * BODY, learned=6 * 64 * num_words, square=6 * 2 * 4 * 16)
    assert frozen == flops.Cost(token=4 * BODY, learned=4 * 64 * num_words, square=6 * 2 * 4 * 16)
    batch = {"num_tokens": 10, "counts": [3, 2], "lengths": [6, 4]}
    assert frozen.of(batch) == 10 * frozen.token + 5 * frozen.learned + (36 + 16) * frozen.square


def test_a_training_tells_its_speed_memory_and_start(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, max_steps=4, logging_steps=2))

    told = attempt.of("metrics")[-1]
    assert told["padding_share"] == 0
    assert 0 < told["mfu"] < 1
    assert told["step_seconds"] * told["samples_per_second"] == pytest.approx(4)
    assert told["peak_memory_bytes"] == told["host_memory_bytes"] > 100e6
    done = attempt.outcome["data"]
    assert done["kernels"] == {"attention": attempt.told("attention")}
    assert {"mfu", "samples_per_second", "tokens_per_second", "padding_share", "step_seconds"} <= done["metrics"].keys()
    assert done["memory_by_rank"] == [{name: done["metrics"][name] for name in done["memory_by_rank"][0]}]
    (startup,) = (data["startup_seconds"] for data in attempt.of("message") if "startup_seconds" in data)
    assert done["startup_seconds"] == startup
    assert list(startup) == ["prepare", "wait", "imports", "data", "model", "trainer", "first_step", "total"]
    assert startup["total"] == pytest.approx(sum(startup.values()) / 2, abs=0.01)


def test_padding_is_counted_apart_and_processes_together() -> None:
    throughput = Throughput(torch.device("cpu"), rank=1, num_processes=2)
    throughput.begin(4)
    throughput.add({"num_tokens": 30, "num_positions": 40, "lengths": [20, 10]})
    # The other process has done as much and has 7 bytes.
    done = throughput.take(6, lambda own: [2 * n for n in own[:5]] + [7.0, 7.0] + own[7:])

    assert (done.tokens, done.samples, done.steps) == (60, 4, 2)
    assert done.rates()["padding_share"] == 0.25
    assert throughput.memory[0] == {"peak_memory_bytes": 7, "host_memory_bytes": 7}
    assert throughput.peaks()["host_memory_bytes"] == throughput.memory[1]["host_memory_bytes"] > 7


@pytest.mark.parametrize("length", [1, 7, 33])
def test_kept_probabilities_give_pytorchs_attention(length: int) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(1, heads, length, 16, requires_grad=True) for heads in (4, 2, 2)]
    outer = torch.randn(1, 4, length, 16)
    query, key, value = parts
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    ours = attention._causal(query, key, value, 0.25, 0.0, None)

    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    wanted, found = (torch.autograd.grad(output, parts, outer) for output in (theirs, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_samples_of_a_row_attend_to_themselves_alone_whichever_are_computed_together() -> None:
    torch.manual_seed(0)
    lengths = [7, 30, 3, 9, 1, 6, 28]
    parts = [torch.randn(1, sum(lengths), heads, 16).transpose(1, 2).requires_grad_() for heads in (6, 2, 2)]
    pieces = zip(*(part.split(lengths, dim=2) for part in parts), strict=True)
    attended = (torch.nn.functional.scaled_dot_product_attention(*p, is_causal=True, enable_gqa=True) for p in pieces)
    theirs = torch.cat(list(attended), dim=2).transpose(1, 2)
    ours, _ = attention.attend(torch.nn.Identity(), *parts, None, segment_lengths=lengths)

    assert len(attention.grouped(tuple(lengths))) < len(lengths)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    outer = torch.randn_like(theirs)
    wanted, found = (torch.autograd.grad(output, parts, outer) for output in (theirs, ours))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_layer_with_its_adapter_gives_what_peft_gives() -> None:
    outputs, gradients = [], []
    for is_ours in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 5, bias=False))
        config = LoraConfig(r=4, lora_alpha=10, target_modules=["0", "2"], init_lora_weights=False)
        if is_ours:
            adapted.enter(config)
        made = get_peft_model(model.double(), config, autocast_adapter_dtype=False)
        given = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
        outputs.append(made(given))
        weights = [given, *(weight for weight in made.parameters() if weight.requires_grad)]
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), weights))
        assert [type(layer) is adapted.AdaptedLinear for layer in (model[0], model[2])] == [is_ours, is_ours]
        with made.disable_adapter():
            assert not torch.allclose(made(given), outputs[-1])
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_norm_is_that_of_transformers(is_trained: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(LlamaRMSNorm(24, eps=1e-5))
    torch.nn.init.normal_(model[0].weight).requires_grad_(is_trained)
    given, outer = torch.randn(3, 5, 24, requires_grad=True), torch.randn(3, 5, 24)
    inputs = [given, *([model[0].weight] if is_trained else [])]
    wanted = model(given)
    norms.replace(model)
    found = model(given)

    assert type(model[0]) is norms.RmsNorm and list(model.state_dict()) == ["0.weight"]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    pairs = (torch.autograd.grad(output, inputs, outer) for output in (found, wanted))
    torch.testing.assert_close(*pairs, atol=1e-6, rtol=1e-5)


def test_a_base_is_computed_with_in_the_format_that_is_fast_and_that_there_is_room_for() -> None:
    intel, amd = "vendor_id : GenuineIntel\nflags : avx512_bf16", "vendor_id : AuthenticAMD\nflags : avx512_bf16"
    assert not precision.is_fast_in_bf16(intel) and precision.is_fast_in_bf16(f"{intel} amx_bf16 amx_tile")
    assert precision.is_fast_in_bf16(amd)

    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": ["d"]})
    asked = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": ["d"], "bf16": True})
    cpu, half = torch.device("cpu"), torch.bfloat16
    if precision.has_bf16(cpu) and not precision.is_fast_in_bf16(Path("/proc/cpuinfo").read_text()):
        assert precision.decide(spec, half, cpu, is_ample=True) == precision.FULL
    assert precision.decide(asked, half, cpu, is_ample=True) == precision.MIXED_BF16
    small, large = (LlamaConfig(num_hidden_layers=number) for number in (1, 100_000))
    assert memory.is_ample(small, 1) and not memory.is_ample(large, 1)


def test_a_preparation_loads_no_torch_and_makes_the_same_tokens(tmp_path: Path, tiny: Path, rows: Path) -> None:
    code = (
        "import sys, pathlib; from trainer_worker.child import prepare; "
        "assert prepare.main(pathlib.Path(sys.argv[1])) == 0; assert sys.modules['torch'] is None"
    )
    alone = make_attempt(tmp_path / "a", tiny, rows, preprocessing_num_workers=2)
    subprocess.run([sys.executable, "-c", code, str(alone.folder)], env=environment(1), check=True)
    again = make_attempt(tmp_path / "b", tiny, rows)
    prepare.prepare(prepare.Attempt(again.folder))

    (first,), (second,) = ([data for data in attempt.of("message") if "reused" in data] for attempt in (alone, again))
    assert (first["reused"], second["reused"]) == (False, True)
    assert alone.outcome["data"]["seconds"].keys() == {"imports", "tokenizer", "tokens"}


def test_who_waits_for_the_same_tokens_can_be_cancelled(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows)
    told = prepare.Attempt(attempt.folder)
    prepare.prepare(told)
    place = Path(json.loads((attempt.folder / prepare.PREPARED).read_text())["train"])
    (attempt.folder / "control.json").write_text(json.dumps({"wanted": "cancel"}))

    with place.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(prepare.Stopped):
            prepare.prepare(told)


def test_the_best_attention_is_that_which_is_there_and_works() -> None:
    both, half = ["fa2", "fa3"], torch.bfloat16
    assert model.best_flash((9, 0), half, both) == "flash_attention_3"
    assert model.best_flash((8, 0), half, both) == model.best_flash((12, 0), half, both) == "flash_attention_2"
    assert model.best_flash((9, 0), half, []) is None
    assert model.best_flash((7, 5), half, both) is model.best_flash((9, 0), torch.float32, both) is None
    assert model.flash_kernel(torch.device("cpu"), half) is None


def test_fused_kernels_are_all_but_those_of_the_loss() -> None:
    def apply(
        rope: bool = True, cross_entropy: bool = False, fused_linear_cross_entropy: bool = True, rms_norm: bool = True,
        swiglu: bool = True, model: object = None,
    ) -> None:  # fmt: skip
        """As the package's own functions; it cannot be loaded without Triton."""

    assert liger.switched_on(apply) == ["rope", "rms_norm", "swiglu"]


@pytest.mark.parametrize(("ended", "imports", "wait"), [(98.0, 5.0, 4.0), (104.0, 1.0, 2.0), (106.0, 0.0, 1.0)])
def test_what_is_loaded_while_the_data_are_prepared_counts_once(ended: float, imports: float, wait: float) -> None:
    startup = Startup(began=100.0)
    startup.seconds |= {"imports": 5.0, "wait": 2.0}

    startup.follow(3.0, ended)

    assert startup.seconds == {"prepare": 3.0, "wait": wait, "imports": imports}
    assert list(startup.seconds) == ["prepare", "wait", "imports"]


def test_a_process_knows_when_it_began() -> None:
    assert process_began() == pytest.approx(psutil.Process().create_time(), abs=1)
