"""A model behind an HTTP address that speaks OpenAI's API: `gptfast serve`, llama-server, ..."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from gptfast.errors import RunError, UserError
from gptfast.rag.generate import MOST_TOKENS, messages, prompt
from gptfast.rag.shown import plain

MOST_BYTES = 2**20
"""The most bytes of an answer."""
NO_CHAT = (400, 404, 405, 501)
"""The statuses by which servers answer a chat with a model that has no template."""
_ROLE_TOKEN = re.compile(r"(?<=[<\[])(?=[|/A-Za-z_])|(?<=\|)(?=>)")


class EndpointWriter:
    """A model of an OpenAI-style server.

    The quotes are sent to it. Space is put into what may be a role token, such as `<|user|>` or
    `[INST]`, because a server may take it for one.
    """

    def __init__(
        self, url: str, model: str | None = None, key: str | None = None, seconds: float = 60.0
    ) -> None:
        """Ask the server which models it has, unless `model` names one.

        url: such as http://127.0.0.1:8000/v1. key: sent as a bearer token. seconds: how long each
        request may take. Raises UserError for an address that can't be one, RunError as `write`
        does.
        """
        self._url, self._key, self._seconds = _checked(url), key, seconds
        self._host = urllib.parse.urlsplit(self._url).netloc.rpartition("@")[2]
        self._model = self._first_model() if model is None else model
        self.name = plain(f"{self._model} at {self._host}")

    def write(self, question: str, sources: Sequence[str]) -> str:
        """Return the model's answer. Raises RunError if the server gives none in time."""
        parts = [_defused(source) for source in sources]
        common = {"model": self._model, "max_tokens": MOST_TOKENS, "temperature": 0}
        chat = {**common, "messages": messages(_defused(question), parts)}
        try:
            answer = self._ask("/chat/completions", chat)
        except _HttpStatus as error:
            if error.status not in NO_CHAT:
                raise
            text = prompt(_defused(question), parts)
            answer = self._ask("/completions", {**common, "prompt": text, "stop": "\n"})
        match answer:
            case {"choices": [{"message": {"content": str(content)}}, *_]}:
                return content
            case {"choices": [{"text": str(content)}, *_]}:
                return content
            case _:
                raise RunError(f"{self._host} answered without a text: expected OpenAI's API")

    def _first_model(self) -> str:
        match self._ask("/models", None):
            case {"data": [{"id": str(name)}, *_]}:
                return name
            case _:
                raise RunError(f"{self._host} lists no model: name one by --generate-model")

    def _ask(self, path: str, body: dict[str, Any] | None) -> object:
        """Return the JSON that the server answers. Raises RunError."""
        headers = {"Content-Type": "application/json", "User-Agent": "gptfast"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        ends = time.monotonic() + self._seconds
        try:
            with _OPENER.open(request, timeout=self._seconds) as answer:
                content = self._read(answer, ends)
        except urllib.error.HTTPError as error:
            with error:
                said = _message(self._read(error, ends))
            raise _HttpStatus(error.code, f"{self._host} answered {error.code}{said}") from None
        except TimeoutError:
            raise self._too_slow() from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._too_slow() from None
            raise RunError(f"{self._host} can't be reached: {plain(str(error.reason))}") from None
        except (OSError, http.client.HTTPException) as error:
            what = plain(str(error)) or type(error).__name__
            raise RunError(f"the connection to {self._host} was lost: {what}") from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RunError(
                f"{self._host} answered with something else than JSON: expected OpenAI's API; its "
                f"address often ends in /v1"
            ) from None

    def _read(self, answer: Any, ends: float) -> bytes:
        """Return the body. A server that sends a byte now and then is too slow, too."""
        content = b""
        while chunk := answer.read1(2**16):
            content += chunk
            if len(content) > MOST_BYTES:
                raise RunError(f"{self._host} answered with more than {MOST_BYTES:,} bytes")
            if time.monotonic() > ends:
                raise self._too_slow()
        return content

    def _too_slow(self) -> RunError:
        return RunError(
            f"{self._host} gave no answer within {self._seconds:g} s: give it longer by "
            f"--generate-seconds"
        )


class _HttpStatus(RunError):
    """The server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent elsewhere, where the quotes and the key were not meant to go."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Return None, by which a redirect becomes an HTTPError."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError(
            f"the address {plain(url)!r} can't be used: expected one such as "
            f"http://127.0.0.1:8000/v1"
        )
    return url.rstrip("/")


def _defused(text: str) -> str:
    return _ROLE_TOKEN.sub(" ", text)


def _message(content: bytes) -> str:
    """Return what an error's body says, if it is JSON as OpenAI's."""
    try:
        match json.loads(content):
            case {"error": {"message": str(message)}}:
                return f": {plain(message)[:200]}"
            case _:
                return ""
    except (ValueError, RecursionError):
        return ""
