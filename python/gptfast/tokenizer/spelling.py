"""How a `tokenizer.json` spells tokens: in GPT-2's byte-level alphabet, or as they are."""

from __future__ import annotations

from gptfast.errors import UserError
from gptfast.tokenizer.bpe_model import BPEModel

_BYTE_LEVEL = BPEModel()


def byte_level_alphabet() -> dict[int, str]:
    """Return the printable character that stands for each byte in a byte-level `tokenizer.json`.

    GPT-2's table: a byte that is a visible Latin-1 character stands for itself. The other 68 bytes
    (control characters, spaces, the soft hyphen) are, in order, the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    stands_for_itself = {byte: chr(byte) for byte in visible}
    return stands_for_itself | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


_BYTE_TO_CHAR = byte_level_alphabet()
_CHAR_TO_BYTE = {char: byte for byte, char in _BYTE_TO_CHAR.items()}


def spelling_of(token: bytes, model: BPEModel = _BYTE_LEVEL) -> str:
    """Return a token as a `tokenizer.json` spells it, such as `Ġthe` for ` the`.

    With byte_fallback, a token is spelled as it is.
    """
    if model.byte_fallback:
        return token.decode()
    # Latin-1 decodes each byte to the code point of the same value. A loop over the bytes takes
    # four times as long, and the fingerprint of every tokenizer needs this.
    return token.decode("latin-1").translate(_BYTE_TO_CHAR)


def token_spelled(spelling: str, model: BPEModel = _BYTE_LEVEL) -> bytes:
    """Return the token that has this spelling.

    Raises UserError if it has a character that stands for no byte.
    """
    if model.byte_fallback:
        return spelling.encode()
    try:
        return bytes(_CHAR_TO_BYTE[char] for char in spelling)
    except KeyError as error:
        raise UserError(
            f"the token {spelling!r} has the character {error.args[0]!r}, which stands for no "
            f"byte: expected a byte-level vocabulary"
        ) from None


def token_if_spelled(spelling: str, model: BPEModel = _BYTE_LEVEL) -> bytes | None:
    """Return the token that has this spelling; None if a character stands for no byte."""
    is_spelled = model.byte_fallback or set(spelling) <= _CHAR_TO_BYTE.keys()
    return token_spelled(spelling, model) if is_spelled else None
