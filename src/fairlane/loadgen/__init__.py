"""Host 2: an open-loop client against any OpenAI-compatible server, giving the same records."""

from importlib.util import find_spec

from fairlane.core.errors import FairlaneError

if find_spec("aiohttp") is None:
    raise FairlaneError("sending load needs aiohttp, which is not installed: pip install aiohttp")
