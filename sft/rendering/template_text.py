"""A chat template as a function from messages to text, as `apply_chat_template` runs it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
from typing import Any

from sft.errors import BadInput
from sft.rendering.conversations import Messages

STAND_IN = "STANDIN0WORDS"
"""Written in place of a message's words, to find where a template puts them."""
LOOP = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})
REASONING = ("reasoning_content", "thinking", "reasoning")
"""What templates call the reasoning of a message; it is handed to them under all of these names."""


class Refused(BadInput):
    """The chat template raises an error."""


class TemplateText:
    """A tokenizer's chat template (or `template` in place of it) with its arguments.

    `date` is the day that a template writes as today's, as `2026-11-30`; None: today.
    """

    def __init__(
        self, tokenizer: Any, template: str | None, kwargs: dict[str, Any], date: str | None = None
    ):
        self.tokenizer = tokenizer
        self.kwargs = dict(kwargs)
        self.template: str = tokenizer.get_chat_template(template, tools=self.kwargs.get("tools"))
        try:
            self.date = datetime.date.fromisoformat(date) if date else None
        except ValueError:
            raise BadInput(f"date: '{date}' is no day such as 2026-11-30") from None

    @property
    def writes_the_date(self) -> bool:
        return "strftime_now" in self.template

    @property
    def alone(self) -> str:
        """The template with its arguments written into it, for programs that are given none."""
        lines = [f"{{%- set {name} = {_literal(value)} -%}}" for name, value in self.kwargs.items()]
        return "".join(f"{line}\n" for line in lines) + self.template

    def write(
        self, messages: Messages, variables: dict[str, Any] | None = None, *, prompt: bool = False
    ) -> str:
        """What `apply_chat_template(messages, add_generation_prompt=prompt)` writes.

        `variables` are this conversation's own arguments, its `tools` among them. Raises `BadInput`
        if the template refuses the conversation.
        """
        if self.takes_parts:
            messages = [_in_parts(message) for message in messages]
        try:
            return self._write(messages, variables or {}, prompt)
        except _errors() as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise Refused(f"the chat template refuses the conversation: {reason}") from error

    @functools.cached_property
    def frame(self) -> str:
        """All that the template may write of its own: its text, its words, its arguments."""
        import jinja2

        nodes = jinja2.nodes
        tree = self._environment.parse(self.template)
        found = [data.data for data in tree.find_all(nodes.TemplateData)]
        found += [one.value for one in tree.find_all(nodes.Const) if isinstance(one.value, str)]
        found += [str(token) for token in self.tokenizer.special_tokens_map.values()]
        return "\0".join([*found, json.dumps(self.kwargs, default=str, ensure_ascii=False)])

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the template reads content as a list of parts alone, as those of models do that
        see pictures."""
        words = {"role": "user", "content": STAND_IN}
        for message, parts in ((words, False), (_in_parts(words), True)):
            with contextlib.suppress(*_errors()):
                if STAND_IN in self._write([message], {}, False):
                    return parts
        return False

    def _write(self, messages: Messages, variables: dict[str, Any], prompt: bool) -> str:
        written: str = self._compiled(
            {**variables, "messages": messages, "add_generation_prompt": prompt}
        )
        return written

    @functools.cached_property
    def _environment(self) -> Any:
        from transformers.utils import chat_template_utils

        theirs = chat_template_utils._compile_jinja_template(self.template).environment
        return _with_quick_loops(theirs)

    @functools.cached_property
    def _compiled(self) -> Any:
        from transformers.utils import chat_template_utils

        compiled = self._environment.from_string(self.template)
        tools = [
            tool if isinstance(tool, dict) else chat_template_utils.get_json_schema(tool)
            for tool in self.kwargs.get("tools") or ()
        ]
        names = {
            **compiled.globals,
            "strftime_now": self._strftime_now,
            "documents": None,
            **self.tokenizer.special_tokens_map,
            **self.kwargs,
            "tools": tools or None,
        }

        def write(variables: dict[str, Any]) -> str:
            # As compiled.render, which would copy the globals at every call.
            context = compiled.new_context({**names, **variables}, shared=True)
            return "".join(compiled.root_render_func(context))

        return write

    def _strftime_now(self, form: str) -> str:
        if self.date is None:
            return datetime.datetime.now().strftime(form)
        return datetime.datetime.combine(self.date, datetime.time()).strftime(form)

    def place(
        self,
        messages: Messages,
        index: int,
        variables: dict[str, Any] | None = None,
        *,
        prompt: bool = False,
    ) -> tuple[str, str]:
        """What is written before and behind the words of message `index`; ("", "") if not there."""
        instead = {**messages[index], "content": STAND_IN}
        others = [*messages[:index], instead, *messages[index + 1 :]]
        whole = self.write(others, variables, prompt=prompt)
        before, found, after = whole.partition(STAND_IN)
        return (before, after) if found else ("", "")


def _literal(value: Any) -> str:
    """A plain value as Jinja writes it.

    >>> _literal({"a": [None, True, "b"]})
    '{"a": [none, true, "b"]}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _errors() -> tuple[type[Exception], ...]:
    """What a template raises that refuses a conversation, or does not get what it looks for."""
    import jinja2

    return jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError


def _with_quick_loops(sandbox: Any) -> Any:
    """A copy of jinja's sandbox that asks no questions of `loop.first` and the like.

    They are properties of jinja's own; asking of each takes a fifth of the time of a template.
    """
    from jinja2.runtime import LoopContext

    environment = sandbox.overlay()

    def attribute(obj: Any, name: str) -> Any:
        if type(obj) is LoopContext and name in LOOP:
            return getattr(obj, name)
        return sandbox.getattr(obj, name)

    environment.getattr = attribute
    return environment


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": parts}
