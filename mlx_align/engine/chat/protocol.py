"""What the chat engine and its clients say to each other: frozen messages, one JSON object a line.

    client -> engine   open, then any number of ask and cancel, then close; the end of stdin means the same
    engine -> client   hello, then for every ask its tokens in order, and done or failed as its last word

A `failed` without an id is not about an ask. Every message carries `v`; another version is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mlx_align.config import BackendConfig
from mlx_align.errors import AlignError, UsageError, error_class

VERSION: Literal[1] = 1
Voice = Literal["tuned", "base"]
"""Who answers: the model with its adapter, or the model as it was before."""


class Line(BaseModel):
    """What every message has."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    v: Literal[1] = VERSION


class Turn(BaseModel):
    """What one side has said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: str


class Open(Line):
    """The first message: which model folder and adapter folder to load (None: no adapter), and where."""

    type: Literal["open"] = "open"
    model: str
    adapter: str | None = None
    backend: BackendConfig = BackendConfig()


class Ask(Line):
    """Answer the conversation in `messages`, which ends with the user; `id` is the client's own number."""

    type: Literal["ask"] = "ask"
    id: int
    who: Voice
    messages: tuple[Turn, ...] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


class Cancel(Line):
    """Stop this answer after its next token, or do not begin it."""

    type: Literal["cancel"] = "cancel"
    id: int


class Close(Line):
    """Stop what is being answered, and end."""

    type: Literal["close"] = "close"


class Hello(Line):
    """The model is loaded. `voices` can be asked; `notes` are sentences for a person; `context` is the
    longest conversation in tokens, None where the model does not say.
    """

    type: Literal["hello"] = "hello"
    model: str
    adapter: str | None
    voices: tuple[Voice, ...]
    device: str
    notes: tuple[str, ...] = ()
    context: int | None = None


class Token(Line):
    """More of an answer: whole characters, at least one."""

    type: Literal["token"] = "token"
    id: int
    text: str


class Done(Line):
    """The whole answer. `finished`: it ended by itself; `cancelled`: it was asked to stop. `special` is a
    special token that stands in the conversation as text, which training refuses; None: there is none.
    """

    type: Literal["done"] = "done"
    id: int
    text: str
    tokens: int
    seconds: float
    finished: bool
    cancelled: bool = False
    special: str | None = None


class Failed(Line):
    """What went wrong, as in `mlx_align.errors`; `exit_code` is the engine's too if it ends because of it."""

    type: Literal["failed"] = "failed"
    id: int | None = None
    message: str
    where: str | None = None
    hint: str | None = None
    exit_code: int = 1

    @classmethod
    def of(cls, error: AlignError, number: int | None = None) -> Failed:
        """The message for an error; `number` is the ask's."""
        said = {"message": error.message, "where": error.where, "hint": error.hint}
        return cls(id=number, exit_code=error.exit_code, **said)

    def error(self) -> AlignError:
        """The error that it tells of."""
        return error_class(self.exit_code)(self.message, where=self.where, hint=self.hint)


Request = Open | Ask | Cancel | Close
Reply = Hello | Token | Done | Failed
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])


def encoded(message: Request | Reply) -> bytes:
    """A message as its line."""
    return message.model_dump_json().encode() + b"\n"


def request(line: bytes) -> Request:
    """The request on a line.

    Raises:
        UsageError: it is none.
    """
    try:
        return _REQUEST.validate_json(line)
    except ValidationError as error:
        raise _refused(line, error, "a request") from None


def reply(line: bytes) -> Reply:
    """The reply on a line.

    Raises:
        UsageError: it is none.
    """
    try:
        return _REPLY.validate_json(line)
    except ValidationError as error:
        raise _refused(line, error, "a reply") from None


def _refused(line: bytes, error: ValidationError, wanted: str) -> UsageError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in _named(first["loc"])) or "the line"
    shown = line[:80].decode(errors="replace")
    return UsageError(f"this is not {wanted} of the chat engine's: {place}: {first['msg']}", where=shown)


def _named(place: Sequence[int | str]) -> Sequence[int | str]:
    """Where in a message something is wrong, without the message's type."""
    return place[1:]
