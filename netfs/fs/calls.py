"""Sans-IO. One call to the server and its answer: the body that was asked for, or the server's status as an error.

Owns no memory; what is lent to a call is back when it returns.
"""

from collections.abc import Sequence
from typing import TypeVar

from netfs.errors import status_error
from transport.base import Outcome, Reply, Transport
from transport.errors import ProtocolError
from transport.messages import Body, Request, Result

__all__ = ["ask", "body_of", "result_of"]

B = TypeVar("B", bound=Body)


def body_of(outcome: Outcome, kind: type[B]) -> B | Exception:
    """Return the body of an outcome, or the error it stands for."""
    if not isinstance(outcome, Reply):
        return outcome
    if outcome.status:
        return status_error(outcome.status)
    body = outcome.body
    if type(body) is not kind:
        return ProtocolError(f"the server answered {type(body).__name__} where {kind.__name__} was due")
    return body


async def ask(transport: Transport, request: Request, kind: type[B]) -> B:
    """Make a call without payload.

    Raises: OSError with the server's errno, TransportError. Cancellation: may have happened.
    """
    body = body_of(await transport.call(request), kind)
    if isinstance(body, Exception):
        raise body
    return body


def result_of(results: Sequence[Result], number: int, kind: type[B]) -> B:
    """Return the body of a compound's step. Raises: OSError with the status of the step that failed, ProtocolError."""
    if len(results) <= number:
        last = results[-1].status if results else 0
        raise status_error(last) if last else ProtocolError("the server left steps of a compound undone")
    result = results[number]
    if result.status:
        raise status_error(result.status)
    if type(result.body) is not kind:
        raise ProtocolError(f"the server answered {type(result.body).__name__} where {kind.__name__} was due")
    return result.body
