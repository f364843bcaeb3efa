"""Every error that leaves a function of ours.

TunesmithError
  InvalidRequest            400  the body or query cannot be understood
    InvalidSpec             422  fields are wrong; carries every complaint
    InvalidDataset          422  rows are wrong; carries them by line
    InvalidJobState         400  the job is not in a state that allows this
  NotAuthenticated          401
  NotAllowed                403
  NotFound                  404
    ModelNotFound           404  no model of that name answers
  Conflict                  409
  TooLarge                  413
  ClientGone                499  the client left before it was answered (gateway/patience.py)
  Overloaded                429  more requests are in flight than may be (gateway/congestion.py)
  Unavailable               503  a replica or a part of the platform is not there yet
  ModelNotLoaded            ---  a model's files cannot be loaded
  LeaseLost                 ---  another attempt holds the job: write nothing, kill the child
  ChildFailed               ---  the training, export or inference child ended badly

An error's docstring is its default message. `status` is its HTTP status, `code` the stable snake_case name that
clients may switch on, `retryable` whether sending the same again can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.tongues import Text, chinese


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One thing wrong with one field (or one row) of what was sent."""

    #: Wire name of the field, e.g. `lora_rank`.
    field: str
    message: str
    code: str = "invalid_value"
    #: 1-based line of the file, for dataset rows.
    line: int | None = None
    #: Chinese of the message, where it comes from another process and only its text does; else it is looked up.
    message_zh: str | None = None

    def as_dict(self) -> dict[str, Any]:
        body = {"field": self.field, "message": self.message, "code": self.code, "line": self.line}
        body["message_zh"] = self.message_zh or chinese.sentence(self.message)
        return {name: value for name, value in body.items() if value is not None}


class TunesmithError(Exception):
    """Something went wrong on the server."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "server_error"
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    #: When asking again is worth while; None: nothing is known about that.
    retry_after_seconds: int | None = None

    def __init__(
        self,
        template: str | None = None,
        *,
        field: str | None = None,
        complaints: Sequence[Complaint] = (),
        **values: Any,
    ):
        self.message: str = Text(template or (type(self).__doc__ or "").strip(), **values)
        self.field = field or (complaints[0].field if complaints else None)
        self.complaints = tuple(complaints)
        super().__init__(self.message)

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's error member: message, type, param, code; `issues` lists every complaint. `message_zh`: Chinese."""
        body: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.field, "code": self.code}
        if (told := chinese.sentence(self.message)) is not None:
            body["message_zh"] = told
        if self.complaints:
            body["issues"] = [complaint.as_dict() for complaint in self.complaints]
        return body


class InvalidRequest(TunesmithError):
    """The request cannot be understood."""

    status, code, type = 400, "invalid_request", "invalid_request_error"


class InvalidSpec(InvalidRequest):
    """Fields of the request are invalid."""

    status, code = 422, "invalid_spec"


class InvalidDataset(InvalidRequest):
    """Rows of the dataset are invalid."""

    status, code = 422, "invalid_dataset"


class InvalidJobState(InvalidRequest):
    """The job is not in a state that allows this."""

    code = "invalid_job_state"


class NotAuthenticated(TunesmithError):
    """No valid API key was sent: use the header `Authorization: Bearer <key>`."""

    status, code, type = 401, "invalid_api_key", "authentication_error"


class NotAllowed(TunesmithError):
    """The API key's role does not allow this."""

    status, code, type = 403, "permission_denied", "permission_error"


class NotFound(TunesmithError):
    """There is no such record in this project."""

    status, code, type = 404, "not_found", "not_found_error"


class ModelNotFound(NotFound):
    """There is no model of that name in this project."""

    code = "model_not_found"


class Conflict(TunesmithError):
    """The record is in use or already exists."""

    status, code, type = 409, "conflict", "invalid_request_error"


class TooLarge(TunesmithError):
    """The body is larger than the server allows."""

    status, code, type = 413, "too_large", "invalid_request_error"


class Unavailable(TunesmithError):
    """A part of the platform is not ready to answer yet."""

    status, code, retryable = 503, "unavailable", True


class LeaseLost(TunesmithError):
    """Another attempt holds this job."""

    code = "lease_lost"


class ModelNotLoaded(TunesmithError):
    """The model cannot be loaded."""

    code = "model_not_loaded"


class ChildFailed(TunesmithError):
    """The child process ended without finishing its work."""

    code = "child_failed"
