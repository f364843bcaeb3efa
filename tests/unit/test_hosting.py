"""Where an adapter may be loaded beside others, what requests to it carry there, and how its files tell it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import adapterfiles, carried, hosting, schema, templates
from shared.adapterfiles import AdapterFiles
from shared.hosting import Adapter, Host
from shared.spec import DeploySpec
from tests.unit.fleet import deployment, replica

LLAMA = {"architectures": ["LlamaForCausalLM"]}
CHATML = "{% for message in messages %}...{% endfor %}"


def spec(**given: Any) -> DeploySpec:
    return schema.load(DeploySpec, {"model": "tiny", **given})


def adapter(files: dict[str, Any] | None = None, **given: Any) -> Adapter:
    return Adapter(name="bot", base="tiny", spec=spec(**given), files=AdapterFiles(**{"rank": 8, **(files or {})}))


def host(name: str = "tiny", *, ranks: tuple[int | None, ...] = (), **given: Any) -> Host:
    known = {field: given.pop(field) for field in ("base", "base_config", "files") if field in given}
    replicas = [replica(str(n), "http://a", name, max_lora_rank=rank) for n, rank in enumerate(ranks)]
    told: dict[str, Any] = {"base": "tiny", "base_config": LLAMA, **known}
    return Host(deployment=deployment(name, replicas, model_name="tiny"), spec=spec(**given), **told)


@pytest.mark.parametrize(
    ("asked", "there", "why"),
    [
        (adapter(), host(), None),
        (adapter({"rank": 33}), host(), "takes adapters up to rank 32, and this has 33"),
        (adapter({"rank": 33}), host(vllm_max_lora_rank=64), None),
        (adapter({"rank": 33}), host(files=AdapterFiles(rank=40)), None),
        (adapter(), host(base="other"), "serves 'other' and not its base 'tiny'"),
        (adapter(), host(base_config={"architectures": ["MixtralForCausalLM"]}), "takes no adapters"),
        (adapter(), host(base_config={}, enable_lora=True), None),
        (adapter(), host(enable_lora=False), "takes no adapters"),
        # What replicas say that are up counts more than what their spec lets expect.
        (adapter(), host(ranks=(None,)), "takes no adapters"),
        (adapter(), host(base_config={}, ranks=(None, 16)), None),
        (adapter(), host("bot"), "answers to the adapter's own name"),
        (adapter(dtype="float16"), host(), "has dtype auto, and not float16"),
        (adapter(dtype="float16"), host(dtype="float16"), None),
        (adapter(), host(max_model_len=512), None),
        (adapter(), host(template="qwen"), "answers with another chat template"),
        (adapter(), host(enable_thinking=False), "sets enable_thinking"),
        (adapter(), host(files=AdapterFiles(rank=8, generation={"eos_token_id": [2, 7]})), "ends answers at tokens"),
        (adapter({"generation": {"eos_token_id": 2, "max_new_tokens": 9}}), host(), "another max_new_tokens"),
    ],
)  # fmt: skip
def test_an_adapter_is_put_only_where_it_answers_as_on_its_own(asked: Adapter, there: Host, why: str | None) -> None:
    told = hosting.misfit(asked, there)
    assert told is None if why is None else why in str(told)


def test_a_deployment_that_is_ready_is_taken_before_one_that_starts() -> None:
    starting, ready = host("one"), host("two", ranks=(32,))
    assert hosting.place(adapter(), [host("other", base="other"), starting, ready]).host_name == "two"
    assert hosting.place(adapter(adapter_host="one"), [starting, ready]).host_name == "one"
    assert hosting.place(adapter(adapter_host="own"), [starting, ready]).host_id is None


def test_what_the_server_would_do_otherwise_goes_along_with_each_request() -> None:
    generation = {"eos_token_id": [2, 7], "temperature": 0.6}
    taught = adapter({"chat_template": CHATML, "generation": generation}, enable_thinking=False)
    assert hosting.place(taught, [host()]).carries == {
        "chat_template": CHATML, "stop_token_ids": [2, 7], "temperature": 0.6,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    # Nothing where the host was started for an adapter that was taught the same.
    alike = host("one", files=AdapterFiles(rank=8, chat_template=CHATML, generation=generation), enable_thinking=False)
    assert hosting.place(taught, [alike]).carries == {}
    # What the host has and the adapter has not is said to be as if nobody had set it.
    warm = host("one", files=AdapterFiles(rank=8, chat_template=CHATML, generation={"temperature": 0.2}))
    assert hosting.carries(adapter({"generation": {"eos_token_id": 2}}, template="qwen"), warm) == {
        "chat_template": templates.get("qwen").jinja, "stop_token_ids": [2], "temperature": 1.0,
    }  # fmt: skip


def test_what_a_client_says_comes_first() -> None:
    carries = {
        "chat_template": CHATML, "stop_token_ids": [7], "temperature": 0.6, "chat_template_kwargs": {"a": 1, "b": 2}
    }  # fmt: skip
    chat, text = "/v1/chat/completions", "/v1/completions"
    asked = {"temperature": 0, "stop_token_ids": [3], "chat_template_kwargs": {"b": 3}}
    assert carried.into(asked, carries, chat) == {
        "temperature": 0, "stop_token_ids": [3, 7], "chat_template": CHATML, "chat_template_kwargs": {"a": 1, "b": 3}
    }  # fmt: skip
    assert carried.into({"temperature": None, "ignore_eos": True}, carries, text) == {
        "temperature": 0.6, "ignore_eos": True
    }  # fmt: skip


def test_the_files_of_an_adapter_tell_what_it_needs(tmp_path: Path) -> None:
    config = {"r": 8, "rank_pattern": {"q": 24}, "use_dora": True, "bias": "all", "init_lora_weights": "pissa"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')

    found = adapterfiles.in_folder(tmp_path, own_template=False)
    assert found == AdapterFiles(
        rank=24, extensions=("use_dora", "bias", "init_lora_weights"), chat_template=CHATML,
        generation={"eos_token_id": 2},
    )  # fmt: skip
    assert AdapterFiles.load(json.loads(json.dumps(found.as_dict()))) == found
    assert adapterfiles.in_folder(tmp_path, own_template=True).chat_template is None
