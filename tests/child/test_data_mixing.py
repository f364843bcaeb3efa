"""How rows of several datasets become one stream: as the library `datasets` mixes them, and no more than are needed."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, interleave_datasets, load_dataset
from datasets.arrow_writer import ArrowWriter
from training import as_dataset, make_attempt, make_dataset, make_model, train_here

from shared import datafiles
from shared.attempt import Attempt as Told
from shared.errors import InvalidDataset
from trainer_worker.child import mixing, prepare
from trainer_worker.child.tokens import TokenStore

STRATEGIES = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}


def sources(lengths: list[int]) -> list[mixing.Source[tuple[int, int]]]:
    return [partial(lambda place, length: iter([(place, row) for row in range(length)]), *pair)
            for pair in enumerate(lengths)]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shares", [None, [0.2, 0.5, 0.3], [0.05, 0.05, 0.9]])
@pytest.mark.parametrize("lengths", [[3, 4, 5], [5, 1, 2], [700, 30, 900], [1, 1, 1]])
def test_rows_are_interleaved_as_the_library_does(
    strategy: str, shares: list[float] | None, lengths: list[int]
) -> None:
    mixed = list(mixing.mixed(sources(lengths), strategy, shares, seed=7))
    rows = [[{"row": [place, row]} for row in range(length)] for place, length in enumerate(lengths)]
    tables = [Dataset.from_list(own) for own in rows]
    expected = interleave_datasets(
        tables,
        probabilities=shares,
        seed=7,
        stopping_strategy=STRATEGIES[strategy],  # type: ignore[arg-type]
    )
    assert mixed == [tuple(row) for row in expected["row"]]


def test_rows_one_after_another_are_all_rows() -> None:
    assert list(mixing.mixed(sources([2, 1]), "concat", None, 0)) == [(0, 0), (0, 1), (1, 0)]


def test_a_dataset_without_rows_cannot_be_interleaved() -> None:
    with pytest.raises(InvalidDataset):
        list(mixing.mixed(sources([2, 0]), "interleave_over", None, 0))


def test_a_buffer_changes_the_order_and_nothing_else() -> None:
    rows = list(range(500))
    found = list(mixing.shuffled(iter(rows), 50, seed=3))
    assert sorted(found) == rows
    assert found != rows
    assert found == list(mixing.shuffled(iter(rows), 50, seed=3)) != list(mixing.shuffled(iter(rows), 50, seed=4))
    assert all(row <= place + 50 for place, row in enumerate(found))
    assert list(mixing.shuffled(iter(rows), 1, seed=3)) == rows


@pytest.mark.parametrize(("num_samples", "max_rows"), [(4, None), (10, None), (25, None), (25, 7), (4, 9)])
def test_samples_that_are_drawn_are_all_rows_before_any_comes_twice(num_samples: int, max_rows: int | None) -> None:
    times = mixing.draws(10, num_samples, max_rows, seed=1)
    count = min(num_samples, max_rows or num_samples)
    assert (len(times), sum(times)) == (10, count)
    assert max(times) == 1 if count <= 10 else min(times) >= 1
    drawn = list(mixing.resampled(lambda: iter(range(10)), num_samples, max_rows, seed=1))
    assert [drawn.count(row) for row in range(10)] == times


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def prepared(folder: Path, model: Path, dataset: Path, datasets: list[Any] | None = None, **spec: Any) -> TokenStore:
    """The tokens of the training part."""
    attempt = make_attempt(folder, model, dataset, **({} if datasets else spec))
    if datasets:
        run = json.loads((attempt.folder / "run.json").read_text())
        several = {"spec": run["spec"] | spec, "datasets": datasets}
        (attempt.folder / "run.json").write_text(json.dumps(run | several))
    prepare.prepare(Told(attempt.folder))
    return TokenStore(Path(json.loads((attempt.folder / prepare.PREPARED).read_text())["train"]))


def ids(store: TokenStore) -> list[list[int]]:
    return [store.sample(index)[0].tolist() for index in range(len(store))]


def test_several_processes_make_the_same_samples(tmp_path: Path, model: Path) -> None:
    data = make_dataset(tmp_path / "rows.json", 1_500)
    alone = prepared(tmp_path / "a" / "job", model, data)
    shared = prepared(tmp_path / "b" / "job", model, data, preprocessing_num_workers=2)
    assert alone.folder.parent != shared.folder.parent
    assert len(alone) == 1_500
    assert ids(alone) == ids(shared)
    assert alone.meta == shared.meta


def test_a_stream_prepares_what_the_steps_take_and_no_more(tmp_path: Path, model: Path) -> None:
    data = make_dataset(tmp_path / "rows.json", 400)
    wanted: dict[str, Any] = {"max_steps": 5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole = prepared(tmp_path / "whole", model, data, **wanted)
    stream = prepared(tmp_path / "stream", model, data, streaming=True, buffer_size=100, val_size=3, **wanted)
    ordered = prepared(tmp_path / "ordered", model, data, streaming=True, disable_shuffling=True, **wanted)
    assert (len(whole), len(stream), len(ordered)) == (400, 43, 40)
    assert ids(ordered) == ids(whole)[:40]
    assert all(sample in ids(whole)[:150] for sample in ids(stream))
    assert ids(stream) != ids(whole)[:43]


def test_a_packed_stream_has_tokens_for_every_step(tmp_path: Path, model: Path) -> None:
    data = make_dataset(tmp_path / "rows.json", 400)
    wanted: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 2, "cutoff_len": 128}
    stream = prepared(tmp_path / "stream", model, data, streaming=True, neat_packing=True, **wanted)
    assert 4 * 128 <= stream.meta["num_tokens"] < 5 * 128


def test_what_changes_the_rows_changes_the_place_of_their_tokens(tmp_path: Path, model: Path) -> None:
    pair = [as_dataset(make_dataset(tmp_path / f"{n}.json", 8 + n)) for n in (1, 2)]
    described = [pair[0] | {"format": "alpaca", "columns": {"num_samples": 3}}, pair[1]]
    made = [
        prepared(tmp_path / str(number), model, tmp_path / "1.json", sets, **spec)
        for number, (sets, spec) in enumerate(
            [
                (pair, {}),
                (pair, {"mix_strategy": "interleave_under"}),
                (pair, {"mix_strategy": "interleave_over"}),
                (pair, {"mix_strategy": "interleave_over", "interleave_probs": [0.5, 0.5]}),
                (pair, {"mix_strategy": "interleave_over", "interleave_probs": [0.5, 0.5], "seed": 1}),
                (described, {}),
                (pair[::-1], {}),
            ]
        )
    ]
    assert len({store.folder for store in made}) == len(made)
    assert [len(store) for store in made][:3] == [19, 18, 20]
    assert len(made[5]) == 13
    again = prepared(tmp_path / "again", model, tmp_path / "1.json", pair, seed=5)
    assert again.folder == made[0].folder


def test_each_validation_dataset_has_a_loss_of_its_own(tmp_path: Path, model: Path) -> None:
    data = make_dataset(tmp_path / "rows.json", 8)
    attempt = make_attempt(
        tmp_path / "job", model, data, eval_dataset=data, eval_on_each_dataset=True, num_train_epochs=1, do_eval=True
    )
    run = json.loads((attempt.folder / "run.json").read_text())
    sets = [as_dataset(data), as_dataset(make_dataset(tmp_path / "more.json", 5))]
    (attempt.folder / "run.json").write_text(json.dumps(run | {"eval_datasets": sets}))
    metrics = train_here(attempt).outcome["data"]["metrics"]
    first, second, both = (metrics[name] for name in ("eval_rows_loss", "eval_more_loss", "eval_loss"))
    assert min(first, second) < both < max(first, second)
    told = [event for event in attempt.of("metrics") if "eval_rows_loss" in event]
    assert told[-1]["eval_rows_loss"] == pytest.approx(first)


@pytest.mark.parametrize("streams", [False, True])
def test_rows_of_the_hubs_library_are_read_by_their_description(tmp_path: Path, streams: bool) -> None:
    make_dataset(tmp_path / "held.json", 6)
    described = as_dataset(Path("org/name")) | {"format": "alpaca", "columns": {"subset": None, "split": "held[:4]"}}
    arguments = datafiles.hub_arguments(described) | {"path": "json"}
    assert arguments == {"path": "json", "name": None, "data_dir": None, "split": "held[:4]"}
    if streams:
        arguments["split"] = "held"
    rows = load_dataset(**arguments, data_files={"held": str(tmp_path / "held.json")}, streaming=streams)
    read = list(datafiles.hub_rows(rows, described, ("sft", "messages")))
    assert read == list(datafiles.rows(as_dataset(tmp_path / "held.json")))[: len(read)]
    assert len(read) == (6 if streams else 4)


def test_rows_of_another_kind_than_the_stage_needs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("One line.\n")
    with pytest.raises(InvalidDataset, match="plain text, but stage sft needs"):
        list(datafiles.rows(as_dataset(tmp_path / "book.txt"), ("sft", "messages")))


def test_a_folder_holds_files_of_one_type(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json"):
        make_dataset(tmp_path / name, 3)
    (tmp_path / "README.md").write_text("About")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert len(list(datafiles.rows(as_dataset(tmp_path)))) == 6
    (tmp_path / "c.csv").write_text("instruction,output\na,b\n")
    with pytest.raises(InvalidDataset, match="several types"):
        list(datafiles.rows(as_dataset(tmp_path)))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.jsonl.gz", "rows.csv"])
def test_every_type_of_file_makes_the_same_samples(tmp_path: Path, model: Path, name: str) -> None:
    rows = [{"instruction": f"What is {n}?", "output": f"A number, {n}."} for n in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path, table = tmp_path / name, Dataset.from_list(rows)
    if name.endswith("gz"):
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    elif name.endswith("arrow"):
        with ArrowWriter(path=str(path)) as writer:
            writer.write_table(table.data.table)
            writer.finalize()
    else:
        getattr(table, f"to_{path.suffix[1:]}")(str(path))
    wanted = prepared(tmp_path / "a" / "job", model, tmp_path / "rows.json")
    assert ids(prepared(tmp_path / "b" / "job", model, path)) == ids(wanted)
