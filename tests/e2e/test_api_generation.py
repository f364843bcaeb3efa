"""Generation parameters through the API: presets, a deployment's own, what a request says, and in which order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.platform import ROWS, Platform, jsonl, make_platform, serve
from tests.unit.upstream import Upstream, serving

HELLO = [{"role": "user", "content": "hello"}]
CHOICES = [{"index": number, "message": {"role": "assistant", "content": f"hi {number}"}} for number in range(3)]
#: Of a model, and of a tokenizer (`count`).
ANSWER = {"choices": CHOICES, "usage": {"prompt_tokens": 3}, "count": 30}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("generation"))
    assert made.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"}).status_code == 201
    return made


@pytest.fixture(scope="module")
def upstream(platform: Platform) -> Iterator[Upstream]:
    """The replica of a deployment that has parameters of its own; LF writes one of them beside the others."""
    own = {"temperature": 0.3, "max_new_tokens": 50, "top_k": 7}
    body = {"model": "tiny", "repetition_penalty": 1.1, "generation": own}
    assert platform.post("/v1/deployments", body).status_code == 201
    with serving(Upstream(body=json.dumps(ANSWER).encode())) as made:
        replica = platform.store.replicas.claim_next("worker", None)
        assert replica is not None
        platform.store.replicas.renew(replica.id, replica.attempt, status="ready", url=made.url, api_key="k",
                                      served_name="tiny")  # fmt: skip
        yield made


def put(platform: Platform, name: str, parameters: Any) -> Any:
    return platform.post("/v1/presets", {"name": name, "parameters": parameters})


def ask(platform: Platform, upstream: Upstream, **said: Any) -> dict[str, Any]:
    """What the replica was asked, but for the messages."""
    answer = platform.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO, **said})
    assert answer.status_code == 200, answer.get_json()
    sent: dict[str, Any] = json.loads(upstream.requests[-1]["body"])
    assert sent.pop("messages") == HELLO and sent.pop("model") == "tiny"
    return sent


def test_a_request_goes_before_its_preset_and_that_before_the_deployment(
    platform: Platform, upstream: Upstream
) -> None:
    assert put(platform, "short", {"max_tokens": 5, "temperature": 0.9, "stop": ["."]}).status_code == 201
    own = {"repetition_penalty": 1.1, "top_k": 7}

    assert ask(platform, upstream) == own | {"temperature": 0.3, "max_tokens": 50}
    assert ask(platform, upstream, preset="short") == own | {"temperature": 0.9, "max_tokens": 5, "stop": ["."]}
    said = ask(platform, upstream, preset="short", temperature=0.1, max_completion_tokens=8)
    assert said == own | {"temperature": 0.1, "max_tokens": 8, "stop": ["."]}
    put(platform, "short", {"top_k": 2})
    assert ask(platform, upstream, preset="short")["top_k"] == 2


def test_what_only_the_layers_together_make_wrong_is_refused(platform: Platform, upstream: Upstream) -> None:
    put(platform, "beams", {"num_beams": 4})
    num_before = len(upstream.requests)
    for said, field in (({"stream": True}, "num_beams"), ({"stop": ["."]}, "stop"), ({"n": 5}, "n")):
        refused = platform.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "preset": "beams", **said})
        fields = [issue["field"] for issue in refused.get_json()["error"]["issues"]]
        # The deployment's own penalty is passed over by vLLM's beams, too.
        assert refused.status_code == 422 and sorted(fields) == sorted([field, "repetition_penalty"])
    assert len(upstream.requests) == num_before


def test_a_preset_that_is_not_there_is_told_with_the_nearest(platform: Platform, upstream: Upstream) -> None:
    put(platform, "exact", {"temperature": 0.0})
    refused = platform.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "preset": "exakt"})
    error = refused.get_json()["error"]
    assert refused.status_code == 422 and error["param"] == "preset" and "did you mean 'exact'?" in error["message"]


def test_presets_are_listed_looked_at_and_deleted(platform: Platform) -> None:
    body = {"name": "calm", "description": "few surprises", "parameters": {"temperature": 0.2, "tools": []}}
    assert platform.post("/v1/presets", body).status_code == 201
    assert platform.post("/v1/presets", body).status_code == 200
    found = platform.get("/v1/presets/calm").get_json()
    assert {name: found[name] for name in body} == body
    assert found in platform.get("/v1/presets").get_json()["data"]
    changed = {"parameters": {"top_k": 2}}
    for name, status in (("calm", 200), ("bold", 201)):
        answer = platform.client.put(f"/v1/presets/{name}", json=changed, headers=platform.headers())
        assert answer.status_code == status
    assert platform.get("/v1/presets/calm").get_json()["parameters"] == {"top_k": 2}
    assert platform.client.delete("/v1/presets/calm", headers=platform.headers()).status_code == 200
    assert platform.get("/v1/presets/calm").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"parameters": {}}, "name"),
        ({"name": "a", "parameters": []}, "parameters"),
        ({"name": "a", "parameters": {"temperature": 3}}, "parameters.temperature"),
        ({"name": "a", "parameters": {"temprature": 1}}, "parameters.temprature"),
        ({"name": "a", "parameters": {"messages": []}}, "parameters.messages"),
        ({"name": "a", "parameters": {"chat_template": "x"}}, "parameters.chat_template"),
        (
            {"name": "a", "parameters": {"structured_outputs": {"json": {"type": "no"}}}},
            "parameters.structured_outputs",
        ),
        ({"name": "a", "parameters": {"min_tokens": 9, "max_tokens": 3}}, "parameters.min_tokens"),
        ({"name": "a", "parameters": {}, "params": {}}, "params"),
    ],
)
def test_what_cannot_be_a_preset_is_refused_under_its_field(platform: Platform, body: Any, field: str) -> None:
    refused = platform.post("/v1/presets", body)
    assert refused.status_code == 422
    assert [issue["field"] for issue in refused.get_json()["error"]["issues"]] == [field]


def test_a_deployments_own_parameters_are_checked(platform: Platform) -> None:
    body = {"model": "tiny", "name": "wrong", "top_p": 2, "generation": {"temperature": 3, "temprature": 1}}
    refused = platform.post("/v1/deployments", body)
    fields = {issue["field"] for issue in refused.get_json()["error"]["issues"]}
    assert refused.status_code == 422
    assert fields == {"generation.temperature", "generation.temprature", "generation.top_p"}


def test_defaults_that_the_engine_can_never_honour_are_refused_with_their_field(platform: Platform) -> None:
    beams = {"num_beams": 4, "repetition_penalty": 1.2, "do_sample": True, "top_p": 0.7}
    refused = platform.post("/v1/deployments", {"model": "tiny", "name": "searching", **beams})
    assert fields_of(refused) == ["generation.repetition_penalty"]
    drawn = {"num_beams": 4, "do_sample": True, "top_p": 0.7}
    assert platform.post("/v1/deployments", {"model": "tiny", "name": "searching", **drawn}).status_code == 201
    changed = platform.client.patch(
        "/v1/deployments/searching", json={"generation": drawn | {"stop": ["."]}}, headers=platform.headers()
    )
    assert fields_of(changed) == ["generation.stop"]
    heeding = {"model": "tiny", "name": "heeding", "engine": "transformers"}
    assert platform.post("/v1/deployments", heeding | beams).status_code == 201
    refused = platform.post("/v1/deployments", heeding | beams | {"generation": {"presence_penalty": 1}})
    assert fields_of(refused) == ["generation.presence_penalty"]
    for name in ("searching", "heeding"):
        platform.client.delete(f"/v1/deployments/{name}", headers=platform.headers())


def test_what_is_said_of_drawing_is_refused_beside_own_beams_only(platform: Platform, upstream: Upstream) -> None:
    platform.deploy("drawing", upstream.url, generation={"top_p": 0.7, "temperature": 0})
    platform.deploy("searching", upstream.url, generation={"num_beams": 4, "top_p": 0.7})
    said = {"model": "drawing", "messages": HELLO}
    assert platform.post("/v1/chat/completions", said | {"num_beams": 3}).status_code == 200
    refused = platform.post("/v1/chat/completions", said | {"num_beams": 3, "top_p": 0.5, "min_p": 0.1})
    assert fields_of(refused) == ["top_p", "min_p"]
    said["model"] = "searching"
    assert platform.post("/v1/chat/completions", said | {"temperature": 0.3}).status_code == 200
    refused = platform.post("/v1/jobs", {"kind": "generate", "model": "drawing", "dataset": "x", "num_beams": 3,
                                         "temperature": 0.5})  # fmt: skip
    assert fields_of(refused) == ["temperature"]


def test_do_sample_goes_before_a_deployments_temperature_of_0(platform: Platform, upstream: Upstream) -> None:
    platform.deploy("greedy", upstream.url, generation={"temperature": 0, "top_p": 0.7})
    said = {"model": "greedy", "messages": HELLO, "do_sample": True}
    assert platform.post("/v1/chat/completions", said).status_code == 200
    sent = json.loads(upstream.requests[-1]["body"])
    assert "temperature" not in sent and sent["top_p"] == 0.7


def test_rows_and_jobs_are_held_to_the_beams_of_the_engine_that_will_answer(
    platform: Platform, upstream: Upstream
) -> None:
    platform.deploy("searched", upstream.url)
    platform.deploy("heeded", upstream.url, engine="transformers")
    for model, heeds in (("searched", False), ("heeded", True)):
        said = {"model": model, "messages": HELLO, "num_beams": 3, "stop": ["x"], "repetition_penalty": 1.3}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": said}
        sent = {"file": (io.BytesIO(jsonl([line])), f"{model}.jsonl"), "purpose": "batch"}
        file = platform.client.post("/v1/files", data=sent, headers=platform.headers()).get_json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = platform.post("/v1/batches", body)
        job = {"kind": "generate", "model": model, "dataset": file["id"]}
        made = platform.post("/v1/jobs", job)
        if heeds:
            assert (batch.status_code, made.status_code) == (200, 201)
        else:
            assert (fields_of(batch), fields_of(made)) == (["input_file_id"], ["dataset"])
            own = platform.post("/v1/jobs", job | {"num_beams": 3, "stop": ["x"]})
            assert fields_of(own) == ["stop", "dataset"]
            assert "has stop beside beams in line 1" in batch.get_json()["error"]["message"]


def fields_of(refused: Any) -> list[str]:
    assert refused.status_code == 422, refused.get_json()
    return [issue["field"] for issue in refused.get_json()["error"]["issues"]]


def test_a_generation_job_takes_its_preset_and_the_deployments_parameters_as_they_are_now(
    platform: Platform, upstream: Upstream
) -> None:
    put(platform, "drawn", {"top_k": 9, "max_tokens": 3, "tools": [{"function": {"name": "look"}}]})
    sent = {"file": (io.BytesIO(jsonl(ROWS)), "rows.jsonl"), "name": "rows"}
    assert platform.client.post("/v1/datasets", data=sent, headers=platform.headers()).status_code == 201
    body = {"kind": "generate", "model": "tiny", "dataset": "rows", "preset": "drawn", "top_k": 4}
    made = platform.post("/v1/jobs", body)
    assert made.status_code == 201, made.get_json()
    put(platform, "drawn", {"max_tokens": 99})
    spec = platform.get(f"/v1/jobs/{made.get_json()['id']}").get_json()["spec"]
    told = {name: spec[name] for name in ("top_k", "max_new_tokens", "temperature", "repetition_penalty", "top_p")}
    assert told == {"top_k": 4, "max_new_tokens": 3, "temperature": 0.3, "repetition_penalty": 1.1, "top_p": 0.7}
    assert spec["tools"] == [{"function": {"name": "look"}}] and spec["preset"] == "drawn"


def test_max_length_is_what_the_counted_prompt_leaves(platform: Platform, upstream: Upstream) -> None:
    assert ask(platform, upstream, max_length=50)["max_tokens"] == 20
    counted = upstream.requests[-2]
    assert counted["path"] == "/tokenize" and counted["headers"]["Authorization"] == "Bearer k"
    assert json.loads(counted["body"]) == {"model": "tiny", "messages": HELLO}
    assert ask(platform, upstream, max_length=50, max_tokens=7)["max_tokens"] == 7

    num_before = len(upstream.requests)
    refused = platform.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO, "max_length": 30})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, "max_length")
    assert len(upstream.requests) == num_before + 1


def test_a_beam_search_tells_as_many_answers_as_were_asked_for(platform: Platform, upstream: Upstream) -> None:
    said = {"model": "tiny", "messages": HELLO, "num_beams": 3, "repetition_penalty": 1.0}
    answer = platform.post("/v1/chat/completions", said).get_json()
    sent = json.loads(upstream.requests[-1]["body"])
    assert (sent["use_beam_search"], sent["n"], sent["temperature"]) == (True, 3, 0.0) and "num_beams" not in sent
    assert answer["choices"] == CHOICES[:1]
    assert platform.post("/v1/chat/completions", {**said, "n": 2}).get_json()["choices"] == CHOICES[:2]


def test_responses_are_asked_of_vllms_own_route(platform: Platform, upstream: Upstream) -> None:
    put(platform, "fixed", {"seed": 3, "stop": ["."], "logprobs": True})
    body = {"model": "tiny", "input": "hi", "preset": "fixed", "max_output_tokens": 9, "metadata": {"a": "b"}}
    assert platform.post("/v1/responses", body).status_code == 200
    assert upstream.requests[-1]["path"] == "/v1/responses"
    expected = {"model": "tiny", "input": "hi", "max_output_tokens": 9, "seed": 3, "stop": ["."], "temperature": 0.3,
                "top_k": 7, "repetition_penalty": 1.1, "metadata": {"a": "b"}}  # fmt: skip
    assert json.loads(upstream.requests[-1]["body"]) == expected
    ended: list[bytes | int] = [b"event: response.created\ndata: {}\n\n", b"event: response.completed\ndata: {}\n\n"]
    upstream.pieces = ended
    streamed = platform.post("/v1/responses", body | {"stream": True}).data
    upstream.pieces = []
    assert streamed == b"".join(piece for piece in ended if isinstance(piece, bytes))  # and no error follows
    wrong = {"temperature": 3, "previous_response_id": "resp_1", "tools": [{"type": "mcp"}], "max_output_tokens": 0}
    refused = platform.post("/v1/responses", {"model": "tiny", "input": "hi"} | wrong).get_json()["error"]
    assert {issue["field"] for issue in refused["issues"]} == set(wrong)
    schema = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}
    refused = platform.post("/v1/responses", {"model": "tiny", "input": "hi", "text": schema})
    assert refused.status_code == 422


def respond(platform: Platform, upstream: Upstream, **said: Any) -> dict[str, Any]:
    """What the replica was asked for a response."""
    answer = platform.post("/v1/responses", {"input": "hi", **said})
    assert answer.status_code == 200, answer.get_json()
    sent: dict[str, Any] = json.loads(upstream.requests[-1]["body"])
    return sent


def test_of_a_deployment_and_a_preset_a_response_takes_what_its_route_knows(
    platform: Platform, upstream: Upstream
) -> None:
    own = {"num_beams": 4, "length_penalty": 2.0, "max_length": 50, "min_tokens": 9, "stop": ["."], "logprobs": True}
    platform.deploy("lf", upstream.url, generation=own)
    put(platform, "many", {"n": 3, "bad_words": ["x"], "reasoning_effort": "low", "top_k": 2})

    sent = respond(platform, upstream, model="lf")
    assert sent == {"model": "lf", "input": "hi", "stop": ["."], "max_output_tokens": 20}
    counted = upstream.requests[-2]
    assert (counted["path"], json.loads(counted["body"])) == (
        "/tokenize",
        {"model": "lf", "messages": [{"role": "user", "content": "hi"}]},
    )
    sent = respond(platform, upstream, model="lf", preset="many", max_output_tokens=5)
    assert (sent["max_output_tokens"], sent["reasoning"], sent["top_k"]) == (5, {"effort": "low"}, 2)
    assert not {"n", "bad_words", "num_beams", "min_tokens", "logprobs", "preset"} & sent.keys()
    refused = platform.post("/v1/responses", {"model": "lf", "input": "hi", "max_length": 30})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, "max_length")


def test_the_probabilities_of_a_response_are_asked_for_in_openais_form(platform: Platform, upstream: Upstream) -> None:
    platform.deploy("plain", upstream.url)
    with serve(platform) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"]) as client:
        client.responses.create(model="plain", input="hi", top_logprobs=3, include=["message.output_text.logprobs"])
        sent = json.loads(upstream.requests[-1]["body"])
        assert (sent["top_logprobs"], sent["include"]) == (3, ["message.output_text.logprobs"])
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.responses.create(model="plain", input="hi", extra_body={"n": "x", "bad_words": ["x"]})
        assert isinstance(refused.value.body, dict)
        assert {issue["field"] for issue in refused.value.body["issues"]} == {"n", "bad_words"}


def test_options_of_a_stream_and_seeds_are_taken_as_vllm_does(platform: Platform, upstream: Upstream) -> None:
    platform.deploy("seeded", upstream.url)
    with serve(platform) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"]) as client:
        ask: Any = client.chat.completions.create
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            ask(model="seeded", messages=HELLO, stream_options={"include_usage": True})
        assert refused.value.param == "stream_options"
        with pytest.raises(openai.UnprocessableEntityError, match="include_usage 'yes'"):
            ask(model="seeded", messages=HELLO, stream=True, stream_options={"include_usage": "yes"})
        for seed in (-1, 2**63 - 1):
            ask(model="seeded", messages=HELLO, seed=seed)
            assert json.loads(upstream.requests[-1]["body"])["seed"] == seed


def test_an_engine_without_responses_says_so_before_it_is_asked(platform: Platform, upstream: Upstream) -> None:
    platform.deploy("plainer", upstream.url, engine="transformers")
    num_before = len(upstream.requests)
    for stream in (False, True):
        refused = platform.post("/v1/responses", {"model": "plainer", "input": "hi", "stream": stream})
        error = refused.get_json()["error"]
        assert (refused.status_code, error["param"]) == (422, "model") and "/v1/chat/completions" in error["message"]
    assert len(upstream.requests) == num_before
    assert platform.post("/v1/chat/completions", {"model": "plainer", "messages": HELLO}).status_code == 200


def test_nothing_is_fetched_for_a_message(platform: Platform, upstream: Upstream) -> None:
    address = "http://169.254.169.254/"
    part = {"type": "image_url", "image_url": {"url": address}}
    result = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": address}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"page_url": address}}
    chat, responses = "/v1/chat/completions", "/v1/responses"
    for path, name, message in (
        (chat, "messages", {"role": "user", "content": [part]}),
        (chat, "messages", {"role": "tool", "content": [{"type": "tool_result", "content": [part]}]}),
        (responses, "input", {"role": "user", "content": [part]}),
        (responses, "input", result),
    ):
        refused = platform.post(path, {"model": "tiny", name: [message]})
        assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, name)
    said = {"model": "tiny", "input": [call, result | {"output": [{"type": "input_image", "image_url": None}]}]}
    assert platform.post(responses, said).status_code == 200
    refused = platform.post(responses, said | {"previous_input_messages": [{"role": "user", "content": [part]}]})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, "previous_input_messages")


def test_an_expiry_of_a_batchs_files_is_refused(platform: Platform) -> None:
    body = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    expiry = {"anchor": "created_at", "seconds": 3600}
    refused = platform.post("/v1/batches", body | {"output_expires_after": expiry})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, "output_expires_after")
    assert platform.post("/v1/batches", body | {"output_expires_after": None}).status_code == 404
