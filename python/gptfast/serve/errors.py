"""What a request is answered with when it can't be served: always `{"error": {...}}`."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ApiError(Exception):
    """An answer other than 200. The client sees the message, so it names no file.

    status: the HTTP status. param: the field that is wrong. code: a word for programs, such as
    "model_not_found". retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if status in (408, 413):  # the rest of the body is not read
            self.headers["Connection"] = "close"

    def body(self) -> dict[str, Any]:
        """Return the JSON object that OpenAI's clients expect."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, usual)
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def overloaded(message: str) -> ApiError:
    """Return a 503 that asks the client to come again in a second."""
    return ApiError(503, message, code="overloaded", retry_after=1)


def failed() -> ApiError:
    """Return a 500 that tells the client nothing of what went wrong."""
    return ApiError(500, "the server failed: its log says why")
