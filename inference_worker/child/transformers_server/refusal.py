"""What a client is told when its request cannot be answered, in vLLM's envelope."""

from __future__ import annotations

from typing import Any

NAMES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 500: "InternalServerError"}


class Refusal(Exception):
    """The request is at fault, or names what is not here."""

    def __init__(self, message: str, field: str | None = None, status: int = 400):
        super().__init__(message)
        self.message, self.field, self.status = message, field, status

    @property
    def body(self) -> dict[str, Any]:
        name = NAMES.get(self.status, "InternalServerError")
        return {"error": {"message": self.message, "type": name, "param": self.field, "code": self.status}}
