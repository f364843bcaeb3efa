"""What is checked of a request, by route. What it says of its answer is declared in shared/spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from gateway import generation
from shared import messages, responses, sampling
from shared.asking import CHAT, COMPLETIONS, RESPONSES
from shared.errors import Complaint
from shared.fields import StrictBoolean, StrictObject, StrictString, refuse

#: Of a request to RESPONSES, what has an older form.
FORMS = ("tools", "tool_choice", "response_format", "reasoning_effort")


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
        if (wrong := messages.address_complaint(value)) is not None:
            raise ValidationError([wrong])  # type: ignore[list-item]
        return value


class Prompt(fields.Raw):
    """A text, several, or tokens."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str | list) or value == []:
            raise ValidationError("must be a text, a list of texts, or a list of token ids")
        return value


ENVELOPE: dict[str, fields.Field[Any]] = {
    "model": StrictString(required=True, metadata={"description": "Name of a deployed model."}),
    "preset": StrictString(
        metadata={"description": "Generation parameters by name (/v1/presets); what the request says goes before."}
    ),
    "stream": StrictBoolean(metadata={"description": "Answer as server-sent events, token by token."}),
    "stream_options": StrictObject(
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
        **{name: field for name, field in sampling.fields().items() if name in responses.READ},
    },
    name="ResponsesRequest",
)
#: What is checked of a request, by route.
SCHEMAS = {CHAT: ChatRequest, COMPLETIONS: CompletionRequest, RESPONSES: ResponsesRequest}


def complaints(path: str, given: Mapping[str, Any]) -> list[Complaint]:
    """What is wrong with each member by itself."""
    if path != RESPONSES:
        return generation.complaints(given, SCHEMAS[path])
    found = [*sampling.complaints(given, ResponsesRequest), *responses.complaints(given)]
    if found:
        return found
    # Tools and forms are looked at as those of a conversation: they mean the same.
    return generation.complaints({name: value for name, value in responses.older(given).items() if name in FORMS})
