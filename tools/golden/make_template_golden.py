#!/usr/bin/env python3
"""Writes tests/golden/templates.json and tests/golden/template_hashes.json: what jinja2 makes of templates.

The first holds small templates and what they give (null: jinja2 refuses). The second holds, for each template of
chat-templates/llama.cpp-templates.tar.gz (not ours, so not copied here), one hash of what it gives for all
conversations and extras: XXH3 over, for each, the text's bytes as u64 and the text, or u64 -1 where jinja2 refuses.

usage: TZ=UTC tools/golden/make_template_golden.py ../shared/data   (needs transformers, jinja2, libxxhash)
"""
import ctypes
import datetime
import itertools
import json
import struct
import sys
import tarfile
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

NOW = 1700000000


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW)


chat_template_utils.datetime = Clock
GOLDEN = Path(__file__).parents[2] / "tests/golden"

# ---- the language, one template a line ----

VALUES = dict(
    a=[1, 2, 3], s="Hello World", e="", u="  h\u00e9llo \u00f1 \u65e5\u672c \u3000",
    d={"x": 1, "b": "two", "k": [1, {"z": None}]}, n=None, f=1.5, t=True,
    msgs=[{"role": "user", "content": "hi", "n": 2}, {"role": "bot", "content": "yo", "n": 1}],
    nest={"a": {"b": [{"c": 5}]}}, html="<a href='x'>&\"</a>", nl="line1\nline2\n\nline4\n", big=10**15, neg=-7)

LANGUAGE = r'''
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 1.0 }}|{{ 1e20 }}|{{ 1e-7 }}|{{ 123456789.125 }}|{{ 0.1 + 0.2 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 7.5 // 2 }}|{{ -7.5 % 2 }}
{{ s[0] }}{{ s[-1] }}{{ s[1:4] }}{{ s[::-1] }}{{ s[::2] }}{{ s[-3:] }}{{ s[:-3] }}{{ s[10:2] }}{{ s[5:100] }}{{ u[2:5] }}{{ u[::-1] }}
{{ a[::-1] }}{{ a[1:] }}{{ a[-2:] }}{{ a[::2] }}{{ a[5:] }}{{ a[-1] }}{{ a[2:0:-1] }}
{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ u.upper() }}{{ u.strip() }}|{{ u.lstrip() }}|{{ u.rstrip() }}|{{ 'straße ŉ ΑΣ'.upper() }}{{ 'ΑΣ ΣΑΣ'.lower() }}{{ 'hello wORLD'.capitalize() }}
{{ s.split() }}{{ s.split('o') }}{{ s.split('o', 1) }}{{ s.rsplit('o', 1) }}{{ '  a  b c '.split() }}{{ '  a  b c '.split(None, 1) }}{{ '  a  b c '.rsplit(None, 1) }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a,,b'.split(',') }}
{{ nl.splitlines() }}{{ nl.splitlines(True) }}{{ s.replace('l','L') }}{{ s.replace('l','L',1) }}{{ s.replace('','-') }}{{ s.startswith('He') }}{{ s.endswith(('x','ld')) }}{{ s.find('o') }}{{ s.rfind('o') }}{{ s.find('z') }}{{ s.count('l') }}{{ s.index('W') }}
{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('bc') }}{{ 'abc'.center(8, '*') }}{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5) }}|{{ '-5'.zfill(4) }}
{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ 'ab'.islower() }}{{ ''.isdigit() }}
{{ ', '.join(['a','b']) }}{{ [1,2]|join(', ') }}{{ msgs|join('|', attribute='role') }}{{ 'abc'|join('-') }}
{{ d }}{{ d.x }}{{ d['b'] }}{{ d.get('x') }}{{ d.get('zz') }}{{ d.get('zz', 5) }}{{ d.keys()|list }}{{ d.values()|list }}{{ d.items()|list }}{{ d|items|list }}{{ d|length }}{{ 'x' in d }}{{ 'q' not in d }}{{ d|dictsort }}{{ d|list }}
{{ nest.a.b[0].c }}{{ nest['a']['b'][0]['c'] }}{{ nest.a.zz }}|{{ nest.zz is defined }}{{ n is none }}{{ zz is undefined }}
{{ true and 0 }}{{ false or 'x' }}{{ not n }}{{ 1 < 2 < 3 }}{{ 1 < 2 > 5 }}{{ 'a' < 'b' }}{{ [1,2] < [1,3] }}{{ 1 == 1.0 }}{{ true == 1 }}{{ '1' == 1 }}{{ none == none }}{{ zz == yy }}{{ {'a':1} == {'a':1.0} }}
{{ 'x' if t else 'y' }}{{ 'x' if not t }}|{{ 'a' ~ 1 ~ none ~ true ~ [1] ~ zz }}{{ 'ab' * 3 }}{{ 3 * 'ab' }}{{ [1] * 2 }}{{ [1] + [2] }}{{ (1,) + (2,) }}{{ (1,2) }}{{ () }}{{ (1,) }}
{{ [1,'a',None,True,1.5,{'a':'b'},('x',)] }}{{ ["it's", 'say "x"', 'both\'"', 'tab\t\n\\', 'é', '\x07', '\u200b', '😀'] }}
{{ d|tojson }}{{ d|tojson(indent=2) }}{{ [u, html, "\u0001\b\f", 1.0, none, true, [], {}]|tojson }}{{ u|tojson(ensure_ascii=true) }}{{ "😀\x7f"|tojson(ensure_ascii=true) }}{{ {"b":1,"a":{"d":1,"c":2}}|tojson(sort_keys=true) }}{{ [1,2]|tojson(separators=(',',':')) }}{{ {1:2,true:3,none:4,1.5:5}|tojson }}{{ [[],[1,[2]]]|tojson(indent='\t') }}
{{ a|first }}{{ a|last }}{{ []|first }}|{{ a|sum }}{{ a|max }}{{ a|min }}{{ a|reverse|list }}{{ s|reverse }}{{ [3,1,2]|sort }}{{ [3,1,2]|sort(reverse=true) }}{{ ['b','A','c']|sort }}{{ ['b','A','c']|sort(case_sensitive=true) }}{{ msgs|sort(attribute='n')|map(attribute='role')|list }}{{ [1,2,1,3]|unique|list }}{{ ['a','A']|unique|list }}
{{ msgs|map(attribute='content')|join(',') }}{{ msgs|selectattr('role','equalto','user')|list }}{{ msgs|rejectattr('role','eq','user')|map(attribute='role')|list }}{{ a|select('odd')|list }}{{ a|reject('odd')|list }}{{ a|select('gt',1)|list }}{{ ['a','b']|map('upper')|list }}{{ [0,1,'',none,'x']|select|list }}{{ msgs|selectattr('zz')|list }}{{ msgs|map(attribute='zz', default='D')|list }}{{ none|selectattr('a')|list }}
{{ zz|default('d') }}{{ e|default('d') }}|{{ e|default('d', true) }}{{ none|default('d') }}{{ none|d('x', boolean=True) }}
{{ '42'|int }}{{ ' 42 '|int }}{{ '4x'|int }}{{ '4x'|int(7) }}{{ '3.7'|int }}{{ 3.9|int }}{{ '0x1f'|int(base=16) }}{{ '1_000'|int }}{{ none|int }}{{ '2.5'|float }}{{ 'x'|float }}{{ 5|float }}{{ 3.14159|round(2) }}{{ 2.5|round }}{{ 3.7|round|int }}{{ 42.55|round(1,'floor') }}{{ -3|abs }}
{{ u|length }}{{ a|count }}{{ s|upper }}{{ s|lower }}{{ s|title }}{{ 'foo bar-baz'|title }}{{ s|capitalize }}{{ '  x '|trim }}|{{ 'xxaxx'|trim('x') }}{{ html|e }}{{ html|escape|e }}{{ html|safe }}{{ html|safe + '<b>' }}{{ '<i>' + html|safe }}{{ (html|safe) ~ '<b>' }}{{ s|replace('o','0') }}{{ s|replace('o','0',1) }}{{ 5|string + '5' }}{{ s|list }}
{{ nl|indent }}|{{ nl|indent(2, true) }}|{{ nl|indent(width=3, first=False, blank=True) }}|{{ 'a'|indent(2, first=true) }}|{{ nl|wordcount }}{{ s|truncate(8, true, '..', 0) }}{{ 'foo bar baz qux'|truncate(9) }}{{ 'foo bar baz qux'|truncate(9, leeway=0) }}{{ 'a b/ü?'|urlencode }}
{{ [1,2,3,4,5]|batch(2)|list }}{{ [1,2,3,4,5]|batch(2,'x')|list }}{{ [1,2,3,4,5]|slice(3)|list }}{{ [1,2,3,4,5]|slice(3,'x')|list }}
{{ '%s-%d-%.2f-%05d-%x-%r-%%' % ('a', 5, 1.5, 42, 255, 'q') }}{{ '%s' % 5 }}{{ '%(a)s' % {'a':1} }}{{ '%-5s|%5s|' % ('a','b') }}{{ "%s %s"|format('a','b') }}{{ '{} {}'.format(1,'b') }}{{ '{1} {0}'.format(1,2) }}{{ '{a} {{x}}'.format(a=5) }}{{ '{0[x]} {0.b}'.format(d) if false }}{{ '{d[x]}'.format(d=d) }}
{% for x in a %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a','b') }}{{ loop.depth }}{{ loop.changed(x > 1) }};{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in s %}{{ c }}.{% endfor %}{% for x in [] %}{% else %}none{% endfor %}{% for x in a if x != 2 %}{{ x }}{{ loop.length }}{% endfor %}{% for (p, (q, r)) in [(1,(2,3))] %}{{ p }}{{ q }}{{ r }}{% endfor %}{% for x in zz %}{% else %}E{% endfor %}
{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x == 6 %}{% break %}{% endif %}{{ x }}{% endfor %}{{ range(5)|list }}{{ range(1,10,3)|list }}{{ range(5,0,-2)|list }}{{ range(0)|list }}
{% for n in [{'v':1,'c':[{'v':2,'c':[]}]}] recursive %}[{{ n.v }}{{ loop.depth }}{{ loop(n.c) }}]{% endfor %}
{% set x = 1 %}{% for i in a %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% set ns = namespace(c=0, l=[]) %}{% for i in a %}{% set ns.c = ns.c + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.c }}{{ ns.l }}{{ ns.zz is defined }}{% set p, q = 1, 2 %}{{ p }}{{ q }}{% set (m, o) = [3, 4] %}{{ m }}{{ o }}
{% macro f(a, b='B', c=none) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(1, c=3) }}{{ f(a=1, b=f(2)) }}{{ f() }}{% macro g(x, y=x) %}{{ x }}{{ y }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ g(1) }}{{ g(1,2,3,z=4) }}{% macro fac(n) %}{{ n if n < 2 else n * fac(n - 1)|int }}{% endmacro %}{{ fac(5) }}
{% macro w(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call w('b') %}body{{ s }}{% endcall %}{% macro li(items) %}{% for i in items %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) li(a) %}[{{ i }}]{% endcall %}
{% set blk %}captured {{ s }}{% endset %}{{ blk }}{{ blk|length }}{% set blk2 | upper | trim %}  cap {% endset %}{{ blk2 }}{% filter upper %}shout {{ s }}{% endfilter %}{% with a=5, b=a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% generation %}gen{% set a = 7 %}{% endgeneration %}{{ a }}{% raw %}{{ raw }}{% x %}{% endraw %}{# comment {{ x }} #}{% print 1, 2 %}
{{ 5 is number }}{{ true is number }}{{ 5 is integer }}{{ true is integer }}{{ 1.5 is float }}{{ s is string }}{{ d is mapping }}{{ a is sequence }}{{ s is iterable }}{{ 5 is iterable }}{{ t is boolean }}{{ t is true }}{{ 1 is true }}{{ f is callable }}{{ range is callable }}{{ 4 is even }}{{ 4 is odd }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 3 is in [1,3] }}{{ 3 is not in [1,3] }}{{ 5 is eq 5 }}{{ 5 is gt 3 }}{{ 5 is sameas 5 }}{{ 'A' is upper }}{{ 'a' is lower }}{{ zz is sequence }}{{ d is sequence }}{{ none is sequence }}{{ zz is iterable }}{{ zz is string }}
{{ 'a' in 'abc' }}{{ 1 in a }}{{ 'z' not in s }}{{ none in [none] }}{{ {'a':1}|length }}{{ {} is mapping }}{{ dict(a=1, b=2) }}{{ dict({'x':1}, y=2) }}{{ strftime_now('%Y-%m-%d %H:%M') }}
{{ "a\tb\n\"q\" \\ \x41 \u00e9 \q" }}{{ 'multi' 'part' "s" }}{{ 1_000 }}{{ 0xff }}{{ 0b11 }}{{ 0o17 }}{{ 1.5e3 }}{{ 1_0.5 }}
{{ -a[0] }}{{ -2 ** 2 }}{{ (-2) ** 2 }}{{ 2 ** 3 ** 2 }}{{ not 1 == 2 }}{{ 1 - -1 }}{{ - 5 }}{{ +5 }}{{ a[0] if a else 0 }}{{ a|length - 1 }}{{ -1|abs }}{{ 'a'|upper ~ 'b' }}{{ 1 + 2|string|length }}{{ "x" is string and not false }}
{{ zz }}{{ zz|length }}{{ zz|upper }}{{ zz|string }}{{ zz|list }}{{ zz|join }}{{ zz|trim }}{{ zz ~ 'a' }}{{ zz in [1] }}{{ 1 in zz }}{{ zz|first }}{{ zz|items|list }}{{ not zz }}{{ zz or 'b' }}{{ zz|replace('a','b') }}
{{ zz + 1 }}
{{ zz.a }}
{{ zz() }}
{{ d.zz.a }}
{{ none.a }}|{{ none['a'] }}|{{ 5 .a }}
{{ none.a.b }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + 'a' }}
{{ 1 < 'a' }}
{{ 1 in 5 }}
{{ 1 in 'abc' }}
{{ a|map('nofilter')|list }}
{{ a is notest }}
{{ a|nofilter }}
{{ 5|length }}
{{ d[[1]] }}
{{ {[1]:2} }}
{{ a['x'] }}|{{ s['x'] }}|{{ a[10] }}|{{ s[100] }}|{{ s['upper']() }}
{{ a[10].x }}
{{ a.append(1) }}
{{ d.pop('x') }}
{{ d.update({}) }}
{{ a.count(1) }}{{ a.index(2) }}{{ (1,2).count(2) }}
{{ raise_exception('boom') }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ x.y.z }}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1,2,3)] %}{% endfor %}
{% set x.y = 1 %}
{{ f(1,2) }}
{% macro q(a) %}{% endmacro %}{{ q(1,2) }}
{% macro q(a) %}{% endmacro %}{{ q(b=2) }}
{% if %}{% endif %}
{% if true %}
{% endif %}
{% for %}{% endfor %}
{{ 1 +  }}
{{ (1 }}
{{ 1) }}
{{ [1, 2 }}
{{ 'unclosed }}
{{ unclosed
{# unclosed
{% unknown %}
{% raw %}
{% include 'x' %}
{% break %}
{{ a b }}
{{ a. }}
{{ a| }}
{{ a is }}
{{ f(a=1, 2) }}
{{ 1 if }}
{{ $ }}
{{ a ! b }}
{% set true = 1 %}
{% set 5 = 1 %}
{% endfor %}
{% else %}
{{ }}
{% set a %}
{{ "%d" % 'x' }}
{{ "%s %s" % (1,) }}
{{ "%s" % (1,2) }}
{{ '{}'.format() }}
{{ range(1000000) }}
{{ namespace(_x=1) }}
{{ zz|tojson }}
{{ zz|int }}
{{ [zz]|tojson }}
{{ 'abc'.foo }}|{{ 'abc'.foo is defined }}
{{ 'abc'.foo() }}
{{ s.split('') }}
{{ 1()}}
{{ loop }}{{ caller }}|
{{ [] | last }}|{{ [1,2] | last }}
{{ d|dictsort(by='value') }}
{{ {'b':2,'a':1,'C':3}|dictsort }}{{ {'b':2,'a':1,'C':3}|dictsort(true) }}{{ {'b':2,'a':1,'C':3}|dictsort(reverse=true) }}{{ {'b':2,'a':1}|dictsort(false,'value') }}
{{ msgs|map(attribute='content')|map('upper')|list|tojson }}{{ msgs|map(attribute='n')|sum }}{{ msgs|sum(attribute='n') }}{{ ['x','yy']|map('length')|list }}{{ msgs|map('tojson')|join }}
{%- set a = 5 -%}   {{- a -}}   x  
  {%- if true %}  y{% endif -%}  z
{% for i in range(2) -%}
  {{ i }}
{%- endfor %} q
{{ html|list|sort(reverse=true) }}{{ html|sort }}{{ "it's a-b (c)"|title }}{{ "it's a-b".title() }}{{ 'a, b! --'|wordcount }}{{ 4.0 is even }}{{ 1.5 is divisibleby 0.5 }}{{ 'x' % [1] }}{{ [1,2]|truncate(5) }}
{{ 'x' % 5 }}
{{ 5|indent }}
{{ 5|truncate }}
'''

WHITESPACE = [
    'a\n  {% if true %}\n  b\n  {% endif %}\nc\n',
    'a\n{{ 1 }}\n\nb\n',
    '  {% if true %}x{% endif %}  \n y',
    '  {# c #}\n x',
    'x {# c #} y\n',
    '{%- if true -%}\n x \n{%- endif -%}\n y',
    'a  {%+ if true %} b {%- endif +%} \n c',
    '\t{% set x = 1 %}\n\n{{ x }}\n\n',
    '{% raw %}\n {{ x }} \n{% endraw %}\nz',
    '  {%- raw -%}  a {{ }} {%- endraw -%}  b',
    "{{- 'x' -}}\n\n",
    'a\r\nb\r{% if true %}\r\nc{% endif %}',
    'x\n\n',
    'x\n',
    '\n',
    '',
    "{{ 'a\nb' }}",
    '{% if true %}{# c #}  {% endif %}\n  z',
    'a {#- c -#} b',
    'a {# c -#}  b',
    '{##}x',
    '{#-#} x',
    '{%if true%}x{%endif%}',
    "{{'a'}}{{'b'}}",
    '{% for x in [1,2] %}\n  {{ x }}\n{% endfor %}\nend',
    'a\n   {{ 1 }}\n   {% if 1 %}{% endif %}\n b',
    '\x0b {% if 1 %} y{% endif %}',
    '\u3000{%- if 1 %} y{% endif %}',
    'a {% if true -%}\xa0 b{% endif %}',
    '{ {x} } {% if 1 %}{ % }{% endif %} {',
    "{{ {'a':{'b':1}}['a'] }}",
    "{{ '}}' }}{% if '%}' %}x{% endif %}",
    '{{ -1 }}{{-1}}{{- 1}}{{ 1-}}',
    'x{% set a = [\n1,\n2] %}\n{{ a }}',
    '{{ a\n|list }}',
    '  {%- set x %}\n a \n {% endset %}\n[{{ x }}]',
    '{%- macro m() %}\n  in\n{%- endmacro %}\n[{{ m() }}]',
    '{% if 0 %}a\n{% elif 1 %}\nb\n{% else %}\nc\n{% endif %}\nd',
]

# ---- templates with the features of the families' own; the wording is ours ----

FAMILIES = {
    "llama2": r"""{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate: user, assistant, user, ...') }}{% endif %}{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set text = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set first = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Date: " + date_string + "\n\n" }}
{%- if tools is defined and tools is not none %}
    {{- "Tools as JSON:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- first }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls|length != 1 %}
            {{- raise_exception("one tool call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>tool<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "smollm2": r"""{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help people.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "mistral": r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set ns = namespace(n=0, last=-1) %}
{%- for message in turns %}
    {%- if message["role"] == "user" %}{% set ns.last = loop.index0 %}{% set ns.n = ns.n + 1 %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is defined and tools and loop.index0 == ns.last %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- "[TOOL_CALLS] " ~ (message.tool_calls|map(attribute="function")|list|tojson) ~ eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("Tool call IDs have nine characters!") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("unknown role " + message["role"]) }}
    {%- endif %}
{%- endfor %}
""",
    "qwen": r"""{%- macro content_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is iterable and content is not mapping -%}
        {%- for part in content -%}
            {%- if part.type == 'image' -%}<|image|>{%- else -%}{{- part['text'] -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- content_of(messages[0].content) + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + content_of(messages[0].content) + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not(content_of(message.content).startswith('<tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = content_of(message.content) %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{% endif %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '<tool_call>\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{% else %}{{- call.arguments | tojson }}{% endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' }}{{- content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
""",
    "generation": r"""{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}{% if message.role == 'skip' %}{% continue %}{% endif %}<{{ message.role|capitalize }}>{{ message.content|string|indent(2) }}
{% endif %}{% endfor %}""",
}

# ---- conversations ----


def tool(name):
    return {"type": "function", "function": {
        "name": name, "description": "Get \"it\" <b> for \u00e9 & 'x'",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city", "enum": ["a", "b"]}, "n": {"type": "integer"},
            "o": {"type": "object", "properties": {"q": {"type": "array", "items": {"type": "number"}}}},
            "u": {"type": ["string", "null"]}}},
        "return": {"type": "string"}}}


def call(number, arguments):
    return {"id": f"abcdefgh{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def result(number, text):
    return {"role": "tool", "name": "weather", "tool_call_id": f"abcdefgh{number}", "content": text}


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


CONVERSATIONS = [
    [user("hi")],
    [system("You are x."), user(" Hello\n\nthere <|im_end|> ")],
    [system("sys"), user("a"), answer("b"), user("c ")],
    [user("a"), answer("<think>\nhm\n</think>\n\nok"), user("c")],
    [user("weather?"), answer(None, tool_calls=[call(1, {"city": "Paris", "n": 2, "o": {"q": [1, 2.5]}})]),
     result(1, "{\"t\": 20}")],
    [user("weather?"), answer("", tool_calls=[call(1, {"city": "Paris"}), call(2, {"city": "Rome"})]),
     result(1, "20"), result(2, "21"), answer("done"), user("thx")],
    [user("q"), answer("x", tool_calls=[call(1, "{\"city\": \"Paris\"}")]), result(1, "20")],
    [user([{"type": "text", "text": "part one"}, {"type": "text", "text": "two"}])],
    [system([{"type": "text", "text": "sys"}]), user([{"type": "image"}, {"type": "text", "text": "what?"}])],
    [user("x"), answer("y", reasoning_content="because", thinking="because"), user("z")],
    [{"role": "developer", "content": "dev"}, user("x")],
    [user("x"), user("y")], [answer("x")], [user("")], [{"role": "weird", "content": "x"}],
    [user("x"), answer("prefix")], [],
]
EXTRAS = [
    {}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": [tool("weather"), tool("b")]},
    {"add_generation_prompt": True, "enable_thinking": False, "thinking": False},
    {"add_generation_prompt": False, "tools": [tool("w")], "enable_thinking": True,
     "documents": [{"title": "t", "text": "d"}], "tools_in_user_message": False, "custom_tools": None,
     "functions": "[]", "datetime": "now"},
    {"add_generation_prompt": True, "tools": [], "reasoning_effort": "high",
     "builtin_tools": ["browser", "code_interpreter"], "date_string": "1 Jan 2024", "functions": [tool("f")]},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def render(template, variables):
    """None where jinja2 refuses."""
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables)
    except Exception:
        return None


def chats(extras):
    return [TOKENS | {"messages": m} | e for m, e in itertools.product(CONVERSATIONS, extras)]


def write_small():
    lines = LANGUAGE.strip("\n").split("\n") + WHITESPACE
    document = {
        "values": VALUES,
        "language": [[t, render(t, VALUES)] for t in lines],
        "families": {name: {"template": t, "results": [render(t, v) for v in chats(EXTRAS[1:4])]}
                     for name, t in FAMILIES.items()},
    }
    path = GOLDEN / "templates.json"
    path.write_text(json.dumps(document, indent=0) + "\n")
    print(path, path.stat().st_size, "bytes,", len(lines), "lines")


def write_hashes(data):
    xxhash = ctypes.CDLL("libxxhash.so.0")
    xxhash.XXH3_64bits.restype = ctypes.c_uint64
    xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    files, n_refused = {}, 0
    with tarfile.open(data / "chat-templates/llama.cpp-templates.tar.gz") as tar:
        for member in tar:
            if not member.name.endswith(".jinja"):
                continue
            template, stream = tar.extractfile(member).read().decode(), b""
            for text in (render(template, variables) for variables in chats(EXTRAS)):
                n_refused += text is None
                stream += struct.pack("<Q", 2**64 - 1 if text is None else len(text.encode())) + (text or "").encode()
            files[Path(member.name).name] = f"{xxhash.XXH3_64bits(stream, len(stream)):016x}"
    path = GOLDEN / "template_hashes.json"
    document = {"tokens": TOKENS, "conversations": CONVERSATIONS, "extras": EXTRAS, "files": files}
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path, path.stat().st_size, "bytes,", len(files), "templates,", n_refused, "refusals")


print("jinja2", jinja2.__version__, "transformers", transformers.__version__)
write_small()
write_hashes(Path(sys.argv[1]))
