"""More chat templates, of the kinds that published models have: with tools, thoughts, channels.

Each has a habit of its own that training must get right; its comment names it.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from tests import chat_templates

# As GLM 4.5: nothing ends a turn but the marker of whoever speaks next.
NEXT_SPEAKER = """\
{%- if tools %}<|system|>\nCall these:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}
{%- endif %}
{%- set at = namespace(question=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set at.question = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{ '<|observation|>\n' + m.content }}
    {%- elif m.role == 'assistant' %}
        {%- set thought = m.reasoning_content | default('', true) %}
        {%- set words = m.content %}
        {%- if not thought and '</think>' in words %}
            {%- set thought = words.split('</think>')[0].split('<think>')[-1] %}
            {%- set words = words.split('</think>')[-1] %}
        {%- endif %}
        {{- '<|assistant|>\n<think>' + (thought.strip() if loop.index0 > at.question else '')
            + '</think>' }}
        {{- '\n' + words.strip() if words.strip() }}
        {%- for call in m.tool_calls or [] %}
            {{- '\n<tool_call>' + call.function.name }}
            {%- for key, value in call.function.arguments.items() %}
                {{- '\n<arg_key>' + key + '</arg_key>\n<arg_value>' }}
                {{- value if value is string else value | tojson }}{{ '</arg_value>' }}
            {%- endfor %}{{ '\n</tool_call>' }}
        {%- endfor %}
    {%- else %}{{ '<|' + m.role + '|>\n' + m.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

# As Cohere: its end of turn is not the end of the text; roles alternate; no tools.
TURN_TOKENS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% set name = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + name + '_TOKEN|>' + m.content.strip() }}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)

_XML_CALLS = """\
{%- for call in m.tool_calls or [] %}
    {{- '\n<tool_call>\n<function=' + call.function.name + '>\n' }}
    {%- for key, value in call.function.arguments.items() %}
        {{- '<parameter=' + key + '>\n' + (value if value is string else value | tojson) }}
        {{- '\n</parameter>\n' }}
    {%- endfor %}{{ '</function>\n</tool_call>' }}
{%- endfor %}"""

# As Qwen3.5: the prompt opens a thought; an answer without one has an empty block; earlier turns
# have none. Refuses a conversation without a question and a system turn that is not the first.
OPENS_THOUGHT = (
    """\
{%- if tools %}{{ '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}
    {{- messages[0].content if messages[0].role == 'system' }}{{ '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content }}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set at = namespace(question=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set at.question = loop.index0 %}{% endif %}
{%- endfor %}
{%- if at.question < 0 %}{{ raise_exception('No question found.') }}{% endif %}
{%- for m in messages %}
    {%- set words = m.content | trim %}
    {%- if m.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('The system turn must be first.') }}{% endif %}
    {%- elif m.role == 'user' %}{{ '<|im_start|>user\n' + words + '<|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set thought = m.reasoning_content | default('', true) | trim %}
        {%- if not thought and '</think>' in words %}
            {%- set thought = words.split('</think>')[0].split('<think>')[-1] | trim %}
            {%- set words = words.split('</think>')[-1] | trim %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {{- '<think>\n' + thought + '\n</think>\n\n' if loop.index0 > at.question }}{{ words }}
"""
    + _XML_CALLS
    + """\
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + words + '\n</tool_response><|im_end|>\n' }}
    {%- else %}{{ raise_exception('No such role.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' }}
    {{- '\n</think>\n\n' if enable_thinking is defined and not enable_thinking }}
{%- endif %}"""
)

# As Nemotron 3: the prompt opens a thought by a line of its own, an empty one has none.
OPENS_LINE = (
    """\
{{- '<|im_start|>system\n' }}{{ messages[0].content if messages[0].role == 'system' }}
{%- if tools %}{{ '\nTools:' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
{%- endif %}{{ '<|im_end|>\n' }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set words = m.content %}
        {%- if m.reasoning_content %}
            {%- set words = '<think>\n' + m.reasoning_content + '\n</think>\n' + words %}
        {%- elif '<think>' not in words and '</think>' not in words %}
            {%- set words = '<think></think>' + words %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' + words | trim }}
"""
    + _XML_CALLS
    + """\
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content }}
        {{- '\n</tool_response>\n<|im_end|>\n' }}
    {%- elif m.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}
    {{- '</think>' if enable_thinking is defined and not enable_thinking else '\n' }}
{%- endif %}"""
)

# As gpt-oss: a thought is a message of its own; the last answer ends otherwise than earlier ones; a
# call ends with a marker of its own; the day stands in it.
CHANNELS = """\
{{- '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}
{%- set first = messages[0] if messages[0].role in ('system', 'developer') %}
{%- if tools or first %}
    {{- '<|start|>developer<|message|>' }}{{ first.content if first }}
    {%- for tool in tools or [] %}{{ '\n// ' + tool.function.description }}
        {{- '\ntype ' + tool.function.name + ' = ' }}{{ tool.function.parameters | tojson }}
    {%- endfor %}{{ '<|end|>' }}
{%- endif %}
{%- set last = namespace(tool='') %}
{%- for m in messages[1 if first else 0:] %}
    {%- if m.role == 'assistant' %}
        {%- set thought = m.thinking or m.reasoning_content %}
        {%- if m.tool_calls %}
            {%- if m.tool_calls | length > 1 %}{{ raise_exception('One call at once.') }}{% endif %}
            {%- set call = m.tool_calls[0].function %}
            {%- if thought and m.content %}{{ raise_exception('Thought and words.') }}{% endif %}
            {%- if thought or m.content %}
                {{- '<|start|>assistant<|channel|>analysis<|message|>' + (thought or m.content) }}
                {{- '<|end|>' }}
            {%- endif %}
            {{- '<|start|>assistant to=functions.' + call.name }}
            {{- '<|channel|>commentary json<|message|>' }}{{ call.arguments | tojson }}
            {{- '<|call|>' }}
            {%- set last.tool = call.name %}
        {%- else %}
            {%- if thought and loop.last %}
                {{- '<|start|>assistant<|channel|>analysis<|message|>' + thought + '<|end|>' }}
            {%- endif %}
            {{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
            {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
        {%- endif %}
    {%- elif m.role == 'tool' %}
        {{- '<|start|>functions.' + last.tool + ' to=assistant<|channel|>commentary<|message|>' }}
        {{- m.content | tojson }}{{ '<|end|>' }}
    {%- elif m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""

# As Llama 3.2: the day stands in it, tools stand in the first question, one call at once, and words
# beside a call are left out.
DATED = """\
{{- bos_token }}
{%- set first = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + strftime_now('%d %b %Y') }}
{{- '\n\n' + first + '<|eot_id|>' }}
{%- for m in turns %}
    {%- if m.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{{ m.content | tojson }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('One call at once!') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name }}
        {{- '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
        {%- if tools and loop.first %}
            {%- if m.role != 'user' %}{{ raise_exception('No first question!') }}{% endif %}
            {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}
        {%- endif %}
        {{- m.content | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }}"""

# As Mistral: tools stand before the last question, and the system turn within it; roles alternate.
LAST_QUESTION = """\
{{- bos_token }}
{%- set first = messages[0].content if messages[0].role == 'system' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- set at = namespace(question=-1, asks=true) %}
{%- for m in turns %}{% if m.role == 'user' %}{% set at.question = loop.index0 %}{% endif %}
    {%- if m.role == 'user' or m.role == 'assistant' and not m.tool_calls %}
        {%- if (m.role == 'user') != at.asks %}{{ raise_exception('Not in turns') }}{% endif %}
        {%- set at.asks = not at.asks %}
    {%- endif %}
{%- endfor %}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.index0 == at.question %}
            {{- '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + (first + '\n\n' if first and loop.index0 == at.question else '') }}
        {{- m.content + '[/INST]' }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS]{"content": ' }}{{ m.content | tojson }}{{ '}[/TOOL_RESULTS]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in m.tool_calls %}{{ call.function | tojson }}{{ ', ' if not loop.last }}
        {%- endfor %}{{ ']' + eos_token }}
    {%- else %}{{ m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""

# As Gemma 4: answers in a row are one turn; thoughts stand in a channel, and only while tools work.
ONE_TURN = """\
{{- bos_token }}
{%- if tools or messages[0].role in ('system', 'developer') %}{{ '<start_of_turn>system\n' }}
    {{- messages[0].content if messages[0].role in ('system', 'developer') }}
    {%- for tool in tools or [] %}{{ '<|tool>' }}{{ tool.function | tojson }}{{ '<tool|>' }}
    {%- endfor %}{{ '<end_of_turn>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '<start_of_turn>user\n' + m.content | trim + '<end_of_turn>\n' }}
    {%- elif m.role == 'tool' %}{{ '<|tool_response>' + m.content + '<tool_response|>' }}
    {%- elif m.role == 'assistant' %}
        {%- if loop.first or messages[loop.index0 - 1].role not in ('assistant', 'tool') %}
            {{- '<start_of_turn>model\n' }}
        {%- endif %}
        {%- if m.reasoning_content and m.tool_calls %}
            {{- '<|channel>' + m.reasoning_content + '<channel|>' }}
        {%- endif %}
        {%- for call in m.tool_calls or [] %}
            {{- '<|tool_call>' }}{{ call.function | tojson }}{{ '<tool_call|>' }}
        {%- endfor %}
        {{- m.content | trim }}
        {%- if loop.last or messages[loop.index0 + 1].role not in ('assistant', 'tool') %}
            {{- '<end_of_turn>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role != 'tool' %}{{ '<start_of_turn>model\n' }}
{%- endif %}"""

# Knows neither tools nor a system turn, and says nothing about it: such turns vanish.
FORGETFUL = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)

# As DeepSeek V3: calls only where the content is null, arguments as text, and the results of tools
# are part of the answer's turn.
NULL_CONTENT = """\
{{- bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '<|user|>' + m.content }}
    {%- elif m.role == 'tool' %}{{ '<|tool_response>' + m.content + '<tool_response|>' }}
    {%- elif m.role == 'assistant' and m.content is none %}{{ '<|assistant|>' }}
        {%- for call in m.tool_calls %}
            {{- '<|tool_call>' + call.function.name + '\n' + call.function.arguments }}
            {{- '<tool_call|>' }}
        {%- endfor %}{{ eos_token }}
    {%- elif m.role == 'assistant' %}{{ '<|assistant|>' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt }}"""

# As SmolVLM: content is a list of parts; of text it makes nothing.
PARTS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|end|>\n' }}"
    "{% endfor %}{{ '<|assistant|>' if add_generation_prompt }}"
)

# What the renderer `role_colon` writes, of which no template tells.
ROLE_COLON = (
    "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content | trim + '\n\n' }}"
    "{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt else "
    "'User:' if messages[-1].role == 'assistant' }}"
)

# name: (template, its arguments, the end of the text)
MORE: dict[str, tuple[str, dict[str, Any], str]] = {
    "next speaker": (NEXT_SPEAKER, {}, "<|end|>"),
    "turn tokens": (TURN_TOKENS, {}, "<|end|>"),
    "opens a thought": (OPENS_THOUGHT, {}, "<|im_end|>"),
    "opens a thought, no thinking": (OPENS_THOUGHT, {"enable_thinking": False}, "<|im_end|>"),
    "opens a line": (OPENS_LINE, {}, "<|im_end|>"),
    "opens a line, no thinking": (OPENS_LINE, {"enable_thinking": False}, "<|im_end|>"),
    "channels": (CHANNELS, {}, "<|return|>"),
    "dated": (DATED, {}, "<|eot_id|>"),
    "last question": (LAST_QUESTION, {}, "<|im_end|>"),
    "one turn": (ONE_TURN, {}, "<end_of_turn>"),
    "forgetful": (FORGETFUL, {}, "<|end|>"),
    "null content": (NULL_CONTENT, {}, "<|im_end|>"),
    "parts": (PARTS, {}, "<|end|>"),
}
MARKERS = """<|observation|> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|>
<|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|> <|start|> <|message|> <|channel|> <|call|> <|return|>
[AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [INST] [/INST] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS]
<|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> <|channel>
<channel|>""".split()
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


@functools.cache
def tokenizer_with(name: str) -> Any:
    """The tokenizer with the template called `name`, of these or of `chat_templates`.

    "role_colon" is for the renderer of that name; a double line feed is one token then, as with
    Gemma's tokenizers.
    """
    if name in chat_templates.TEMPLATES:
        return chat_templates.tokenizer_with(name)
    tokenizer = copy.deepcopy(chat_templates.base_tokenizer())
    if name == "role_colon":
        tokenizer.add_tokens(["\n\n"])
        tokenizer.chat_template = ROLE_COLON
        return tokenizer
    known = chat_templates.MARKERS
    tokenizer.add_special_tokens({"additional_special_tokens": [*known, *MARKERS]})
    tokenizer.add_tokens(TAGS)
    template, _, end = MORE[name]
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.chat_template = template
    return tokenizer


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of the template called `name`."""
    if name in MORE:
        return MORE[name][1]
    return chat_templates.TEMPLATES[name][1] if name in chat_templates.TEMPLATES else {}


NAMES = [*chat_templates.TEMPLATES, *MORE, "role_colon"]
