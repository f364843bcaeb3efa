"""What is checked of a request, by route. What it says of its answer is declared in shared/spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from gateway import generation
from shared import messages, responses, sampling
from shared.asking import CHAT, COMPLETIONS, RESPONSES
from shared.errors import Complaint
from shared.fields import StrictBoolean, StrictObject, StrictString, refuse, shown
from shared.tongues import Text

#: Of a request to RESPONSES, what has an older form, and what else may hold a schema.
FORMS = ("tools", "tool_choice", "response_format", "reasoning_effort", "structured_outputs", "guided_json")
#: What may be asked of a stream, each yes or no.
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


class Message(StrictObject):
    """One message of a conversation."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        message = super()._deserialize(value, attr, data, **kwargs)
        if (wrong := messages.complaint(message)) is not None:
            raise ValidationError([wrong])  # type: ignore[list-item]
        return message


class Input(fields.Raw):
    """A text, or items of a conversation."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str | list) or value == []:
            raise refuse("must be a text, or a list of messages")
        for item in value if isinstance(value, list) else ():
            if not isinstance(item, dict):
                raise refuse("has the item {item}: each must be an object", item=shown(item))
        if (wrong := messages.address_complaint(value)) is not None:
            raise ValidationError([wrong])  # type: ignore[list-item]
        return value


class Prompt(fields.Raw):
    """A text, several, or tokens."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str | list) or value == []:
            raise ValidationError("must be a text, a list of texts, or a list of token ids")
        return value


class StreamOptions(StrictObject):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        options = super()._deserialize(value, attr, data, **kwargs)
        for name in STREAM_OPTIONS:
            if not isinstance(said := options.get(name), bool | None):
                raise refuse("has {name} {value}: must be true or false", name=name, value=shown(said))
        return options


ENVELOPE: dict[str, fields.Field[Any]] = {
    "model": StrictString(required=True, metadata={"description": "Name of a deployed model."}),
    "preset": StrictString(
        metadata={"description": "Generation parameters by name (/v1/presets); what the request says goes before."}
    ),
    "stream": StrictBoolean(metadata={"description": "Answer as server-sent events, token by token."}),
    "stream_options": StreamOptions(
        metadata={"description": '{"include_usage": true}: the last event tells the usage.'}
    ),
}
MESSAGES = fields.List(
    Message(), required=True, validate=validate.Length(min=1, error="must have at least one message")
)
ChatRequest = Schema.from_dict({**ENVELOPE, "messages": MESSAGES, **sampling.fields()}, name="ChatRequest")
CompletionRequest = Schema.from_dict(
    {**ENVELOPE, "prompt": Prompt(required=True), **sampling.fields()}, name="CompletionRequest"
)
ResponsesRequest = Schema.from_dict(
    {
        **ENVELOPE,
        "input": Input(required=True),
        "instructions": StrictString(metadata={"description": "System message."}),
        "max_output_tokens": sampling.fields()["max_tokens"],
        "reasoning": StrictObject(metadata={"description": '{"effort": "low"}: how hard a model thinks.'}),
        "text": StrictObject(metadata={"description": '{"format": ...}: what the answer must look like.'}),
        "tools": fields.List(StrictObject(), metadata={"description": "Functions that the model may call."}),
        "tool_choice": fields.Raw(metadata={"description": "`auto`, `none`, `required`, or a function."}),
        **{name: field for name, field in sampling.fields().items() if name in responses.READ | responses.TRANSLATED},
    },
    name="ResponsesRequest",
)
#: What is checked of a request, by route.
SCHEMAS = {CHAT: ChatRequest, COMPLETIONS: CompletionRequest, RESPONSES: ResponsesRequest}


def complaints(path: str, given: Mapping[str, Any]) -> list[Complaint]:
    """What is wrong with each member by itself, and with what is said of a stream where there is none."""
    found = _of_response(given) if path == RESPONSES else generation.complaints(given, SCHEMAS[path])
    if not found and given.get("stream_options") and not given.get("stream"):
        found = [Complaint(field="stream_options", message=Text("needs stream: true"))]
    return found


def _of_response(given: Mapping[str, Any]) -> list[Complaint]:
    found = [*sampling.complaints(given, ResponsesRequest), *responses.complaints(given), *responses.unread(given)]
    # Tools and forms are looked at as those of a conversation: they mean the same.
    return found or generation.complaints(
        {name: value for name, value in responses.older(given).items() if name in FORMS}
    )
