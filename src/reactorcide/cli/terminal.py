"""What of foreign text may reach a terminal: the text itself and its colours, nothing that acts.

A job's output and its name are written by whoever wrote the job. On a terminal every control character
but newline, tab and (in output) carriage return is shown in caret notation, as `cat -v` does;
of the escape sequences only SGR (colour, bold, …) passes.
"""

import codecs
import re

_SGR_PARAMETERS = r"\[[0-9;:]{0,64}"
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
# Characters that reorder or hide what stands around them: a name must read as it is.
_DECEIVERS = "\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
_OUTPUT_TOKEN = re.compile(rf"\x1b{_SGR_PARAMETERS}m|[{_CONTROLS}]")
_NAME_TOKEN = re.compile(rf"[\t\n{_CONTROLS}{_DECEIVERS}\u2028\u2029\ud800-\udfff]")
_UNFINISHED = re.compile(rf"\x1b(?:{_SGR_PARAMETERS})?\Z")
_RESET = "\x1b[0m"


class TerminalFilter:
    """Makes a stream of bytes fit for a terminal, however it is cut into pieces.

    What could begin a colour sequence is held back until it is whole. Invalid UTF-8 becomes U+FFFD.
    """

    def __init__(self, *, colour: bool = True) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._colour = colour
        self._is_coloured = False

    def feed(self, data: bytes) -> bytes:
        """Return what may be shown now."""
        text = self._held + self._decoder.decode(data)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._held = text[end:]
        return self._clean(text[:end])

    def close(self) -> bytes:
        """Return what was held back, and end a colour that the job left on."""
        rest = self._clean(self._held + self._decoder.decode(b"", final=True))
        self._held = ""
        return rest + (_RESET.encode() if self._is_coloured else b"")

    def _clean(self, text: str) -> bytes:
        return _OUTPUT_TOKEN.sub(self._replacement, text).encode()

    def _replacement(self, match: re.Match[str]) -> str:
        found = match[0]
        if len(found) > 1:
            if not self._colour:
                return ""
            self._is_coloured = found not in (_RESET, "\x1b[m")
            return found
        return found if found == "\r" else _caret(found)


def show_inert(text: str) -> str:
    """Return ``text`` (a name, a message) on one line, with nothing in it that acts or deceives."""
    return _NAME_TOKEN.sub(lambda match: _caret(match[0]), text)


def _caret(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    return "^?" if code == 0x7F else f"<U+{code:04X}>"
