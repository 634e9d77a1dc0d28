"""The program's own log: events with fields, on standard error, as JSON or as text."""

import logging
import sys
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Names under which a secret could be logged by mistake; their values never are.
_HIDDEN = frozenset(
    {"token", "authorization", "password", "secret", "secrets", "job_secrets", "dsn", "db_uri"}
)


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] | str = "info",
    form: Literal["auto", "json", "text"] | str = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send structlog's events, and those of the standard library's loggers, to ``stream`` in one form.

    ``stream`` is standard error if not given; `auto` is text on a terminal and JSON elsewhere. Values
    bound with `structlog.contextvars` (job_id, worker_id, request_id) stand in every event. May be
    called again: the last call counts.
    """
    out = stream if stream is not None else sys.stderr
    # Plain tracebacks: the pretty ones show local variables, and those hold secrets.
    is_text = form == "text" or (form == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _hide_secrets,
    ]
    render: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if is_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        # Loggers are made when modules are imported, before this is called.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries tell of their ways at info, URLs included; what an operator needs comes as a warning.
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # It would log every query string; our own line per request does not.
    logging.getLogger("uvicorn.access").handlers.clear()
    logging.getLogger("uvicorn.access").propagate = False


def _to_json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in _HIDDEN & event.keys():
        event[name] = "[REDACTED]"
    return event
