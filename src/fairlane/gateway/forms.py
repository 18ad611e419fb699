"""The short fields of a multipart form, such as the model that an upload is for."""

from fairlane.core.errors import FairlaneError

try:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header
except ImportError as error:
    raise FairlaneError(
        "the gateway needs python-multipart, which is not installed: pip install python-multipart"
    ) from error

FORM = b"multipart/form-data"
_LONGEST = 4096  # bytes of a field that is kept; of a longer one, these
_MOST_PARTS = 64


class FormError(FairlaneError):
    """A form that cannot be read, or that could be read in two ways."""


def fields_of(content_type: bytes, body: bytes) -> dict[str, str]:
    """The fields that are no files, by name. Raises FormError; also where a name stands twice."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise FormError("the form's content type names no boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks)  # type: ignore[arg-type]
        if parser.write(body) != len(body):
            raise FormError("something follows the form")
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"the body is no multipart form: {error}") from None
    if not reader.ended:
        raise FormError("the form is not complete")
    return reader.fields


class _Reader:
    """What the parser calls."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.ended = False
        self._parts = 0
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name: str | None = None  # of a field whose bytes are kept
        self._content = b""
        self.callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise FormError(f"a form may have {_MOST_PARTS} parts")
        self._disposition, self._name, self._content = b"", None, b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            if self._disposition:
                raise FormError("a part of the form has two dispositions")
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            self._name = name
            if name in self.fields:
                raise FormError(f"{name[:40]!r} stands twice in the form")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None and len(self._content) < _LONGEST:
            self._content += data[start : min(end, start + _LONGEST)]

    def _part_end(self) -> None:
        if self._name is not None:
            self.fields[self._name] = self._content.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
