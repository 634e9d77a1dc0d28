"""Chat notifier: posts a message to a webhook when a run has ended.

The body is JSON, `{"text": "…"}`, which Slack, Mattermost, Rocket.Chat and others take. Whatever happens on
the way is a line in the log and never changes how the job ended. The URL is a secret: it is masked.
The text holds the job's name and how it ended, masked, and nothing of its output or variables.

Settings, in `plugin_chat_notifier.toml` beside this file (chmod 600); without a URL it does nothing:

    url = "https://chat.example.org/hooks/…"
    on = ["failed", "timeout"]         # of completed, failed, cancelled, timeout
    timeout_seconds = 5.0
"""

import json
import urllib.request
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from runnerlib.plugins import Plugin, PluginContext, PluginPhase, read_settings


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """Where to post, and of what."""

    url: str | None = None
    on: tuple[Literal["completed", "failed", "cancelled", "timeout"], ...] = ("failed", "timeout")
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=20)] = 5.0


class ChatNotifier(Plugin):
    """Posts one message a run."""

    name = "chat-notifier"
    priority = 900
    timeout_seconds = 30.0

    def __init__(self) -> None:
        self._settings = read_settings(__file__, Settings)
        url = self._settings.url
        if url is not None and urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("url must begin with https:// or http://")

    def supported_phases(self) -> list[PluginPhase]:
        """At the beginning, to have the URL masked; at the very end, when all is known."""
        return [PluginPhase.PRE_VALIDATION, PluginPhase.CLEANUP]

    def execute(self, context: PluginContext) -> None:
        """Post, if this end is one to tell of."""
        url = self._settings.url
        if url is None:
            return
        if context.phase is PluginPhase.PRE_VALIDATION:
            context.add_secret(url)
        elif context.status in self._settings.on:
            try:
                post(url, context.mask(compose_text(context)), self._settings.timeout_seconds)
            except Exception as error:  # noqa: BLE001 - a message that is not sent is not worth a job
                # Only its kind: the text of some names the URL.
                context.log(f"no message was sent: {type(error).__name__}")


def compose_text(context: PluginContext) -> str:
    """Return the message, in one line."""
    config = context.config
    name = "".join(letter if letter.isprintable() else "?" for letter in config.job_name)
    code = "" if context.exit_code is None else f", exit code {context.exit_code}"
    return f"{name} {context.status} ({context.reason}{code}), job {config.job_id}, attempt {config.attempt}"


def post(url: str, text: str, timeout_seconds: float) -> None:
    """Send ``text``. Raises OSError or HTTPException if it does not arrive."""
    request = urllib.request.Request(  # noqa: S310 - the protocol was checked
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    # No redirects: a body that was meant for one place goes to no other.
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(request, timeout=timeout_seconds) as answer:
        answer.read(1024)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
