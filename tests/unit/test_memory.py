"""The estimate of memory against published measurements, and against the formulas that it follows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.advice.memory import ENGINE, GIB, MIXED, Trained, estimate, host_bytes
from shared.advice.shapes import Shape
from tests.unit.measured import LLAMA31_8B, NF4, QWEN_7B, SETS, full, lora, sized

#: Each measured point within this of its estimate, and all of them together on average.
BOUND, MEAN = 0.15, 0.10
LLAMA_33B = sized(6656, 60, 52, 52, 17920, 32000)
LLAMA_65B = sized(8192, 80, 64, 64, 22016, 32000)


def points() -> Iterator[tuple[str, float, float, bool]]:
    """What was measured, GiB; our estimate; whether it may be further off."""
    for made in SETS:
        for length, measured in made.measured.items():
            ours = estimate(replace(made.training, length=length)).total / GIB
            yield f"{made.row} {made.what}, {length}", measured, ours, length in made.outside


def table() -> str:
    return "\n".join(
        f"{what:75} {there:6.1f} {ours:6.1f} {ours / there - 1:+6.1%}" for what, there, ours, _ in points()
    )


def test_the_estimate_is_near_every_published_measurement_that_it_can_model() -> None:
    far = [what for what, there, ours, is_known in points() if abs(ours / there - 1) > BOUND and not is_known]
    assert not far, f"{far}\n{table()}"


def test_what_is_known_to_be_further_off_is_named_and_still_is() -> None:
    named = [(there, ours) for _, there, ours, is_known in points() if is_known]
    assert len(named) == 1
    assert all(BOUND < abs(ours / there - 1) < 0.2 for there, ours in named), table()


def test_the_mean_error_is_small() -> None:
    assert statistics.mean(abs(ours / there - 1) for _, there, ours, _ in points()) <= MEAN, table()


def test_rows_that_calibrated_nothing_are_as_near() -> None:
    checked = [s for s in SETS if not s.calibrates]
    errors = [
        estimate(replace(s.training, length=n)).total / GIB / m - 1 for s in checked for n, m in s.measured.items()
    ]
    assert len(errors) >= 50
    assert statistics.mean(map(abs, errors)) <= MEAN, table()


@pytest.mark.parametrize(("model", "card"), [(LLAMA_65B, 48), (LLAMA_33B, 24)])
def test_what_the_qlora_paper_fitted_on_a_card_fits_by_the_estimate(model: Shape, card: int) -> None:
    paged = Trained(weight=2, gradient=2, optimizer=0, step=0)  # its paged optimizer leaves the card when it must
    made = lora(model, 64, frozen_bytes=NF4, trained=paged, length=512)
    assert 0.8 * card * GIB < estimate(made).total < card * GIB


def test_adapters_have_rank_times_inputs_and_outputs() -> None:
    assert LLAMA31_8B.adapted(["all"], 8) == 20_971_520
    assert LLAMA31_8B.adapted(["q_proj", "v_proj"], 8) == 8 * 32 * (4096 + 4096 + 4096 + 1024)


def test_zero_shares_what_its_stage_says() -> None:
    weights, parts = QWEN_7B.num_weights, {}
    for stage in (0, 1, 2, 3):
        parts[stage] = estimate(full(QWEN_7B, trained=ENGINE, zero=stage, num_devices=8))
    assert [round(parts[s].optimizer / weights, 3) for s in parts] == [12, 1.5, 1.5, 1.5]
    assert [round(parts[s].gradients / weights, 3) for s in parts] == [2, 2, 0.25, 0.25]
    assert [round(parts[s].weights / weights, 3) for s in parts] == [2, 2, 2, 0.25]


def test_zero_does_not_share_activations() -> None:
    alone, shared = (lora(QWEN_7B, 8, zero=3, num_devices=count, length=4096) for count in (1, 8))
    assert estimate(alone).activations == estimate(shared).activations
    assert estimate(alone).logits == estimate(shared).logits


def test_offload_moves_the_optimizer_and_then_the_weights_to_the_host() -> None:
    made = full(QWEN_7B, trained=ENGINE, zero=3, num_devices=8)
    optimizer, both = (estimate(replace(made, offload=where)) for where in ("optimizer", "optimizer+params"))
    assert (optimizer.optimizer, both.optimizer, both.weights) == (0, 0, 0)
    assert optimizer.weights > 0
    held = [host_bytes(replace(made, offload=where), 8)[1] for where in ("none", "optimizer", "optimizer+params")]
    assert held == sorted(held)
    assert held[2] - held[0] == pytest.approx(18 * QWEN_7B.num_weights * 1.5)


def test_every_process_of_a_host_loads_the_model_unless_stage_three_shares_it() -> None:
    made = lora(QWEN_7B, 8, num_devices=8, zero=2)
    loading = [host_bytes(replace(made, zero=stage), 8)[0] for stage in (2, 3)]
    assert loading[0] > 8 * 2 * QWEN_7B.num_weights > loading[1]


def test_activations_are_linear_in_the_length_with_flash_and_quadratic_with_eager_attention() -> None:
    def grows(**given: bool) -> float:
        short, long = (lora(QWEN_7B, 8, length=n, logit_bytes=0, **given) for n in (8192, 32768))
        return estimate(long).activations / estimate(short).activations

    assert grows(checkpointing=False) == pytest.approx(4, rel=1e-6)
    assert grows(checkpointing=True) == pytest.approx(4, rel=1e-6)
    assert grows(checkpointing=False, is_eager=True) > 12


def test_checkpointing_keeps_one_input_a_layer() -> None:
    made = lora(QWEN_7B, 8, length=4096, logit_bytes=100)
    assert estimate(made).activations == 32 * 4096 * 4096 * 2
    assert estimate(replace(made, checkpointing=False)).activations > 10 * estimate(made).activations


def test_gradients_add_to_the_peak_only_where_they_are_kept_for_the_next_small_step() -> None:
    made = full(QWEN_7B, trained=MIXED, length=8192, checkpointing=False, accumulates=False)
    kept = estimate(replace(made, accumulates=True))
    assert kept.gradients == 4 * QWEN_7B.num_weights
    assert estimate(made).total < kept.total


def test_the_parts_add_up() -> None:
    made = estimate(lora(QWEN_7B, 8))
    assert made.gib()["total"] == pytest.approx(sum(v for k, v in made.gib().items() if k != "total"), abs=0.05)
