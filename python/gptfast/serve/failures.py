"""What a client is answered when a handler raises."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gptfast.errors import UserError
from gptfast.serve.errors import ApiError, failed
from gptfast.serve.jobs import ClientGone


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _answer_user_error(request: Request, error: Exception) -> Response:
    status = 501 if isinstance(error.__cause__, ImportError) else 400  # an extra is not installed
    return JSONResponse(ApiError(status, str(error)).body(), status)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "there is nothing here", 405: "another method is expected here"}
    message = messages.get(error.status_code, "the request can't be answered")
    return JSONResponse(
        ApiError(error.status_code, message).body(), error.status_code, error.headers
    )


async def _answer_nobody(request: Request, error: Exception) -> Response:
    request.scope["client_gone"] = True
    return Response(status_code=400)


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Hide what went wrong; uvicorn logs it."""
    return JSONResponse(failed().body(), 500)


EXCEPTION_HANDLERS = {
    ApiError: _answer_api_error,
    UserError: _answer_user_error,
    HTTPException: _answer_http_error,
    ClientDisconnect: _answer_nobody,
    ClientGone: _answer_nobody,
    Exception: _answer_bug,
}
