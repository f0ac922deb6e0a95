"""The format that `torchctl relay` writes on another host and the asking host reads: answers as lines of JSON.

How this works: the relay asks its local workers the named question and records each conversation: the replies,
and the requests that failed. The asking side replays them into the same question, so that all interpretation of
answers happens there. A stack that several workers share travels once: dumps are split at the threads'
headings, and each distinct text below a heading is sent before the first worker that has it.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torchctl import errors
from torchctl.errors import HandlerError, NotAWorkerError, TooLargeError, WorkerError
from torchctl.protocol import compact_json, stacktext
from torchctl.protocol.identity import Identity, checked_number
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Asking, Conversation, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")
VERSION = 1
_MAX_BYTES = 1 << 30  # limit on one host's answers: several traces from every worker
_HEADING = re.compile(rf"^{stacktext.HEADING}\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a relay should ask.

    Attributes:
        question, arguments: as in `questions.named_question`.
        timeout_s: for its local workers.
    """

    question: str
    arguments: dict[str, Any]
    timeout_s: float
    ranks: list[int] | None = None
    job: str | None = None

    def encoded(self) -> str:
        """Return the errand encoded as one word without shell metacharacters."""
        return base64.urlsafe_b64encode(compact_json(asdict(self)).encode()).decode("ascii").rstrip("=")


def decode_errand(word: str) -> Errand:
    """Decode an errand from one word.

    Raises:
        ValueError: the word is not an errand.
    """
    try:
        document = json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))
        errand = Errand(**document)
        if not 0 < float(errand.timeout_s) <= 86400 or not isinstance(errand.arguments, dict):
            raise ValueError("its values are out of range")
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{word[:40]!r} is not a request of --nodes, which runs this command by itself") from None
    return errand


@dataclass(frozen=True, slots=True)
class Transcript:
    """One worker's conversation.

    Attributes:
        rank: from its answer, else from its socket's name.
        steps: its replies, and the errors of failed requests.
    """

    rank: int | None
    steps: list[Reply | WorkerError]

    @property
    def failure(self) -> WorkerError | None:
        """Return the error that ended the conversation, or None."""
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, WorkerError) else None


def recording(question: Question[Any]) -> Question[Transcript]:
    """Return a question that holds the same conversation and returns its transcript."""

    @Question
    def steps(endpoint: Endpoint) -> Asking[Transcript]:
        inner = question.ask(endpoint)
        taken: list[Reply | WorkerError] = []
        rank = endpoint.rank
        try:
            request = next(inner)
            while True:
                try:
                    reply = yield request
                except WorkerError as error:
                    rank = rank if error.rank is None else error.rank
                    taken.append(error)
                    request = inner.throw(error)
                else:
                    rank = rank if reply.rank is None else reply.rank
                    taken.append(reply)
                    request = inner.send(reply)
        except (StopIteration, WorkerError):
            return Transcript(rank, taken)

    return steps


class Writer:
    """Turns outcomes into lines; a repeated text is written once and then referenced."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def lines(self, outcome: Outcome[Transcript]) -> Iterator[str]:
        """Yield the lines for one worker."""
        steps: list[dict[str, Any]] = []
        for taken in [outcome.error] if outcome.value is None else outcome.value.steps:
            if isinstance(taken, Reply):
                step = _reply_json(taken)
                yield from self._packed(taken.body, step)
                steps.append(step)
            elif taken is not None:
                steps.append({"error": _error_json(taken)})
        worker = {"endpoint": str(outcome.endpoint), "rank": outcome.endpoint.rank, "steps": steps}
        yield compact_json({"worker": worker})

    def _packed(self, body: bytes, step: dict[str, Any]) -> Iterator[str]:
        try:
            text = body.decode("utf-8")
            headings = list(_HEADING.finditer(text))
        except UnicodeDecodeError:
            headings = []
        if not headings:
            step["base64"] = base64.b64encode(body).decode("ascii")
            return
        step["parts"] = []
        begins = [0, *(heading.end() for heading in headings)]
        ends = [*(heading.start() for heading in headings), len(text)]
        for heading, begin, end in zip(["", *(one[0][:-1] for one in headings)], begins, ends, strict=True):
            part = text[begin:end]
            if part not in self._known:
                self._known[part] = len(self._known)
                yield compact_json({"text": part})
            step["parts"].append([heading, self._known[part]])


class Reader:
    """Turns a relay's lines back into outcomes.

    Args:
        node: the relay's host.
        question: what was asked.

    Attributes:
        ended: the relay has marked the end of its output.
        trouble: why the relay could not ask; "" if nothing is wrong.
    """

    def __init__(self, node: str, question: Question[T]) -> None:
        self.node = node
        self.question = question
        self.began = False
        self.ended = False
        self.trouble = ""
        self.outcomes: list[Outcome[Any]] = []
        self._texts: list[str] = []
        self._size = 0
        self._clock_s = 0.0  # how far the relay's clock is ahead of ours

    def feed(self, line: bytes) -> None:
        """Read one line of the relay's output, ignoring foreign lines such as a login greeting."""
        if not line.startswith(b"{") or self.ended:
            return
        self._size += len(line)
        if self._size > _MAX_BYTES:
            self._end_with(TooLargeError(f"sent more than {_MAX_BYTES} bytes", endpoint=self.node))
            return
        try:
            document = json.loads(line)
            if document.get("relay") == VERSION:
                self.began = True
                now = time.time()
                self._clock_s = float(document.get("time", now)) - now
            elif "text" in document:
                self._texts.append(str(document["text"]))
            elif "worker" in document:
                self.outcomes.append(self._outcome(document["worker"]))
            elif "trouble" in document:
                self.trouble = str(document["trouble"])[:500]
            elif "end" in document:
                self.ended = True
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
            self._end_with(NotAWorkerError("sent a line that is not a relay's", endpoint=self.node))

    def _end_with(self, error: WorkerError) -> None:
        self.outcomes.append(Outcome(Endpoint(node=self.node), None, error))
        self._texts.clear()
        self.ended = True

    def _outcome(self, worker: dict[str, Any]) -> Outcome[Any]:
        rank = checked_number(worker["rank"])
        endpoint = Endpoint(path=str(worker["endpoint"]), node=self.node, rank=rank, source="--nodes")
        conversation = Conversation(self.question, endpoint)
        try:
            request = conversation.begin()
            for step in worker["steps"]:
                if request is None:
                    break
                if "error" in step:
                    request = conversation.fail(_error(step["error"], endpoint))
                else:
                    request = conversation.answer(self._reply(step))
            if request is None:
                return Outcome(endpoint, conversation.value, None, conversation.identity)
            raise NotAWorkerError("sent an incomplete answer", endpoint=str(endpoint))
        except WorkerError as error:
            return Outcome(endpoint, None, error, conversation.identity)

    def _reply(self, step: dict[str, Any]) -> Reply:
        if "parts" in step:
            body = "".join(
                f"{heading}\n{self._texts[index]}" if heading else self._texts[index]
                for heading, index in step["parts"]
            ).encode()
        else:
            body = base64.b64decode(step["base64"])
        return Reply(
            int(step["status"]),
            body,
            str(step["recorder"]),
            float(step["elapsed_s"]),
            Identity.from_json(step["identity"]),
            float(step["answered_at"]) - self._clock_s,
        )


def _reply_json(reply: Reply) -> dict[str, Any]:
    return {
        "status": reply.status,
        "recorder": reply.recorder,
        "elapsed_s": reply.elapsed_s,
        "answered_at": reply.answered_at,
        "identity": reply.identity.as_json(),
    }


def _error_json(error: WorkerError) -> dict[str, Any]:
    status = error.status if isinstance(error, HandlerError) else None
    return {"kind": error.kind, "detail": error.detail, "rank": error.rank, "status": status}


def _error(document: dict[str, Any], endpoint: Endpoint) -> WorkerError:
    kinds = {one.kind: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, WorkerError)}
    kind = kinds.get(str(document["kind"]), WorkerError)
    rank = checked_number(document["rank"])
    detail = str(document["detail"])[:1000]
    if issubclass(kind, HandlerError):
        return kind(detail, endpoint=str(endpoint), rank=rank, status=int(document["status"] or 500))
    return kind(detail, endpoint=str(endpoint), rank=rank)
