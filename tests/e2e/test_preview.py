"""Previews of a dataset: the text, ids and marks that a training would read, and the lengths that cutoff_len is for."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.platform import Platform, jsonl, make_platform, write_model

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROWS = [
    {"messages": [{"role": "user", "content": f"Twice {n}?"}, {"role": "assistant", "content": "x" * n or "none"}]}
    for n in range(100)
]


def write_tokenizer(folder: Path) -> None:
    """One token per byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<pad>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHATML)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    home = tmp_path_factory.mktemp("platform")
    write_model(home / "import" / "tiny")
    write_tokenizer(home / "import" / "tiny")
    write_model(home / "import" / "bare")
    made = make_platform(home)
    for name in ("tiny", "bare"):
        assert made.post("/v1/models", {"name": f"{name}-model", "model_name_or_path": name}).status_code == 201
    data = {"file": (io.BytesIO(jsonl(ROWS)), "rows.jsonl")}
    assert made.client.post("/v1/datasets", data=data, headers=made.headers()).status_code == 201
    return made


def ask(platform: Platform, **body: Any) -> Any:
    return platform.post("/v1/datasets/rows/preview", {"model": "tiny-model"} | body)


def test_a_preview_shows_what_is_read_and_what_is_learned(platform: Platform) -> None:
    answer = ask(platform, rows=[5]).get_json()

    (row,) = answer["rows"]
    (sample,) = row["samples"]
    text = "<|im_start|>user\nTwice 5?<|im_end|>\n<|im_start|>assistant\nxxxxx<|im_end|>"
    assert (row["row"], sample["text"]) == (5, text)
    assert [(part["text"], part["learned"]) for part in sample["segments"]] == [
        (text.removesuffix("xxxxx<|im_end|>"), False),
        ("xxxxx<|im_end|>", True),
    ]
    assert len(sample["input_ids"]) == len(sample["learned"]) == sample["num_tokens"]
    assert (sum(sample["learned"]), sample["was_cut"]) == (6, False)


def test_the_fields_of_a_training_count(platform: Platform) -> None:
    spec = {"template": "default", "train_on_prompt": True, "default_system": "Be short."}
    (whole,) = ask(platform, rows=[90], **spec).get_json()["rows"][0]["samples"]
    (cut,) = ask(platform, rows=[90], cutoff_len=30, **spec).get_json()["rows"][0]["samples"]

    assert whole["text"].startswith("System: Be short.")
    assert all(whole["learned"]) and not whole["was_cut"]
    assert (cut["was_cut"], cut["num_tokens"]) == (True, 30)


def test_lengths_are_those_before_anything_is_cut(platform: Platform) -> None:
    lengths = ask(platform, cutoff_len=60).get_json()["lengths"]

    assert (lengths["num_rows"], lengths["every"], lengths["complete"]) == (100, 1, True)
    assert (lengths["p50"], lengths["length_max"]) == (lengths["length_max"] - 49, lengths["length_max"])
    assert lengths["share_cut"] == 0.68


def test_the_advice_on_cutoff_len_comes_from_the_lengths(platform: Platform) -> None:
    (cut,) = [found for found in ask(platform, cutoff_len=60).get_json()["findings"] if found["field"] == "cutoff_len"]
    fits = [found for found in ask(platform, cutoff_len=2048).get_json()["findings"] if found["field"] == "cutoff_len"]

    assert cut["severity"] == "warning" and "P95" in cut["message"] and "P99 of the data: 128." in cut["advice"]
    assert fits[0]["severity"] == "info" and "more than the data needs" in fits[0]["message"]


def test_a_llama_factory_yaml_is_previewed_as_it_is(platform: Platform) -> None:
    text = "model_name_or_path: tiny-model\nstage: sft\ndo_train: true\ndataset: other,names\ncutoff_len: 512\n"
    path = "/v1/datasets/rows/preview"
    answer = platform.client.post(path, data=text, content_type="application/yaml", headers=platform.headers())

    assert answer.status_code == 200
    assert [row["row"] for row in answer.get_json()["rows"]] == [0, 1, 2]
    assert platform.get("/v1/jobs").get_json()["data"] == []


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ({"rows": [100]}, "rows", "0 to 99"),
        ({"rows": []}, "rows", "1 to 20"),
        ({"rows": ["1"]}, "rows", "row numbers"),
        ({"rows": [True]}, "rows", "row numbers"),
        ({"rows": list(range(21))}, "rows", "1 to 20"),
        ({"model": "tiny-modle"}, "model_name_or_path", "tiny-model"),
        ({"model": "bare-model"}, "model_name_or_path", "tokenizer.json"),
        ({"template": "qwne"}, "template", "qwen"),
        ({"cutoff_len": "60"}, "cutoff_len", "whole number"),
        ({"cutof_len": 60}, "cutof_len", "cutoff_len"),
    ],
)
def test_what_cannot_be_previewed_is_told(platform: Platform, body: dict[str, Any], field: str, part: str) -> None:
    answer = ask(platform, **body)

    assert answer.status_code == 422
    (issue,) = answer.get_json()["error"]["issues"]
    assert issue["field"] == field and part in issue["message"]


def test_an_endless_template_ends(platform: Platform) -> None:
    folder = platform.settings.import_roots[0] / "endless"
    write_model(folder)
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )

    answer = ask(platform, model="endless", rows=[1])

    assert answer.status_code in (200, 422, 503)
    assert "problem" in json.dumps(answer.get_json()) or answer.status_code != 200


def upload(platform: Platform, name: str, content: bytes) -> None:
    data = {"file": (io.BytesIO(content), name)}
    assert platform.client.post("/v1/datasets", data=data, headers=platform.headers()).status_code == 201


def test_both_answers_of_a_pair_are_shown(platform: Platform) -> None:
    rows = [{"prompt": f"Why {n}?", "chosen": "So.", "rejected": "Because it is so."} for n in range(4)]
    upload(platform, "pairs.jsonl", jsonl(rows))
    answer = platform.post("/v1/datasets/pairs/preview", {"model": "tiny-model", "rows": [1]}).get_json()

    better, worse = answer["rows"][0]["samples"]
    assert [part["text"] for part in better["segments"]][-1] == "So.<|im_end|>"
    assert [part["text"] for part in worse["segments"]][-1] == "Because it is so.<|im_end|>"
    assert answer["lengths"]["num_rows"] == 8


def test_plain_text_is_learned_whole(platform: Platform) -> None:
    upload(platform, "texts.txt", b"Once upon a time.\nThe end.\n")
    path, spec = "/v1/datasets/texts/preview", {"model": "tiny-model", "cutoff_len": 9, "packing": False}
    (first, second) = platform.post(path, spec).get_json()["rows"]

    assert (first["samples"][0]["text"], first["samples"][0]["was_cut"]) == ("Once upon", True)
    assert (second["samples"][0]["text"], all(second["samples"][0]["learned"])) == ("The end.<|im_end|>", True)


def test_rows_of_another_stage_are_refused_with_what_to_do(platform: Platform) -> None:
    answer = ask(platform, stage="pt")
    assert answer.status_code == 422
    assert "stage pt needs plain text" in answer.get_json()["error"]["message"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A Hub that has one model, its files where the real one has them."""
    folder = tmp_path / "org" / "tiny" / "resolve" / "main"
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_model_of_the_hub_is_previewed_with_its_tokenizer(tmp_path: Path, hub: str) -> None:
    made = make_platform(tmp_path / "home", hub=True, hub_url=hub)
    upload(made, "rows.jsonl", jsonl(ROWS))

    answer = ask(made, model="org/tiny", rows=[2]).get_json()
    assert answer["rows"][0]["samples"][0]["segments"][-1]["text"] == "xx<|im_end|>"

    lacking = ask(made, model="org/other").get_json()["error"]
    assert lacking["param"] == "model_name_or_path" and "tokenizer.json" in lacking["message"]


def test_a_hub_that_is_not_there_is_told_soon(tmp_path: Path) -> None:
    made = make_platform(tmp_path, hub=True, hub_url="http://127.0.0.1:9")
    upload(made, "rows.jsonl", jsonl(ROWS))
    began = time.monotonic()

    answer = ask(made, model="org/tiny")

    assert (answer.status_code, time.monotonic() - began < 3) == (503, True)
    assert "register the model from a folder" in answer.get_json()["error"]["message"]


def test_an_unknown_dataset_is_not_found(platform: Platform) -> None:
    assert platform.post("/v1/datasets/nothing/preview", {"model": "tiny-model"}).status_code == 404


KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "text": ({"text": "Once."}, ["Once.<|im_end|>"]),
    "pair": ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, ["So.<|im_end|>", "No.<|im_end|>"]),
    "labelled": ({"prompt": "Why?", "completion": "So.", "label": False}, ["So.<|im_end|>"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_shown_as_their_stage_reads_them(platform: Platform, kind: str) -> None:
    row, learned = KINDS[kind]
    data = {"file": (io.BytesIO(jsonl([row])), f"{kind}.jsonl")}
    assert platform.client.post("/v1/datasets", data=data, headers=platform.headers()).status_code == 201

    told = platform.post(f"/v1/datasets/{kind}/preview", {"model": "tiny-model", "rows": [0]}).get_json()

    samples = told["rows"][0]["samples"]
    shown = ["".join(part["text"] for part in sample["segments"] if part["learned"]) for sample in samples]
    assert shown == learned
    assert told["lengths"]["num_rows"] == len(samples)
    assert told["lengths"]["length_max"] == max(sample["num_tokens"] for sample in samples)
