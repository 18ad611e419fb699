"""Which client a vLLM request is charged to: the one field that says so.

The name travels from the HTTP server to the scheduler, two processes, among the request's
parameters, as bytes. JSON has no bytes: whatever a request's body puts under this key is not a
name, with the middleware that overwrites it and without.
"""

from typing import Any

CLIENT_KEY = "fairlane_client"


def label(params: Any, client: str) -> None:
    """Write a client's name into vLLM's SamplingParams or PoolingParams, over whatever is there.

    The dictionary that held it is replaced, not changed: several requests may share it. The
    params themselves must not be shared with requests of another client.
    """
    attribute = _attribute(params)
    extra = dict(getattr(params, attribute) or {})
    extra[CLIENT_KEY] = client.encode()
    setattr(params, attribute, extra)


def client_of(request: Any) -> str | None:
    """The client that `label` wrote into the params of a vLLM request, or None."""
    params = request.sampling_params or request.pooling_params
    if params is None:
        return None
    name = (getattr(params, _attribute(params)) or {}).get(CLIENT_KEY)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else None


def _attribute(params: Any) -> str:
    """SamplingParams have extra_args, PoolingParams extra_kwargs."""
    return "extra_args" if hasattr(params, "extra_args") else "extra_kwargs"
