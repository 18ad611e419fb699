"""What is asked: prompts of an exact length that share nothing, and the body of a request.

Prompts are token ids by default, which a server takes as they are: no tokenizer can make them
longer or shorter. Each is drawn anew, so that a prefix cache finds nothing to reuse and every
prompt costs its full prefill. For servers that take text alone there are repeated words; those
prompts do share their beginning, and a prefix cache will make them cheaper.
"""

import json
import random
from collections.abc import Callable, Collection

from fairlane.core.errors import FairlaneError
from fairlane.workloads.trace import TracedRequest

Prompt = list[int] | str
MakePrompt = Callable[[TracedRequest], Prompt]
# every vocabulary has these, and the special ids that end a text early come before or far after
TOKEN_IDS = range(10, 250)
WORD = " hi"


def token_prompts(seed: int) -> MakePrompt:
    """Prompts of random token ids; request and seed determine them."""

    def prompt(request: TracedRequest) -> Prompt:
        draw = random.Random(f"{seed} {request.id}")
        return draw.choices(TOKEN_IDS, k=request.prompt_len)

    return prompt


def word_prompts(tokens_added: int) -> MakePrompt:
    """Prompts of one word repeated, for a tokenizer that adds so many tokens to every text.

    Raises FairlaneError for a prompt that is not longer than what is added.
    """

    def prompt(request: TracedRequest) -> Prompt:
        count = request.prompt_len - tokens_added
        if count < 1:
            raise FairlaneError(
                f"request {request.id}: a text of {request.prompt_len} tokens is too short for "
                f"this server, which adds {tokens_added}; use token prompts"
            )
        return WORD * count

    return prompt


def added_tokens(one_word: int, eleven_words: int) -> int:
    """How many tokens a tokenizer adds to a text, from its counts for 1 and for 11 words.

    Raises FairlaneError where a word more is not a token more.
    """
    if eleven_words - one_word != 10:
        raise FairlaneError(
            f"this server makes {eleven_words - one_word} tokens of ten words {WORD!r}, so words "
            "cannot make prompts of an exact length; use token prompts"
        )
    return one_word - 1


def body(
    prompt: Prompt, output_len: int, *, model: str | None, user: str, omit: Collection[str] = ()
) -> bytes:
    """A streaming request to /v1/completions for exactly `output_len` tokens, as JSON.

    omit: fields, names in OMITTABLE, that the server does not take.
    """
    fields = {
        "model": model,
        "prompt": prompt,
        "user": user,
        "max_tokens": output_len,
        "min_tokens": output_len,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = {name: value for name, value in fields.items() if name not in omit}
    return json.dumps(sent, separators=(",", ":")).encode()
