"""Filters, tests, methods, operators and statements: the text of transformers' environment, or its failure."""

# Templates are long lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import TemplateError
from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate
from kvatlas.tokenize.config import TokenizeLimits
from tests.tokenize.chat.templates.reference import NOON, reference_render

VALUES: dict[str, Any] = {
    "text": "  Hello, <b>World</b> & 'you'\n\tsecond line\n\nfourth ẞ ǆ 😀 ",
    "word": "abc",
    "empty": "",
    "n": 7,
    "x": 2.5,
    "yes": True,
    "nothing": None,
    "words": ["b", "A", "c", "a", "B"],
    "numbers": [3, 1, 2, 3],
    "mixed": [1, "a", None, 2.5, {"k": [1]}],
    "people": [
        {"name": "Zoe", "city": "Rome", "age": 30, "tags": ["x"], "items": [1]},
        {"name": "adam", "city": "rome", "age": 25, "address": {"zip": [5]}},
        {"name": "Bob", "city": "Oslo", "age": 41, "keys": "mine"},
    ],
    "box": {"b": 1, "A": 2, "c": {"d": [1, 2, {"e": "f"}]}, "get": "own", "_hidden": 5, "7": 7, "ü": "é"},
    "deep": [[1, [2, [3]]], {"a": {"b": {"c": 1}}}],
}

EXPRESSIONS = """
text|upper; text|lower; text|title; text|capitalize; text|trim; text|trim(' H'); text|reverse; text|length
text|replace('l', 'LL'); text|replace('l', 'LL', 1); text|replace('', '-', 3); n|replace('7', '8'); text|string
text|indent; text|indent(2, true); text|indent('>>', first=true, blank=true); 'a'|indent; ''|indent
text|center(60); word|center; text|truncate(10); text|truncate(10, true, '…', 0); text|truncate(3, end='abcd')
text|e; text|escape|e; text|forceescape; text|safe; (text|safe) ~ '<'; (text|e) + '<b>'; '<b>' + (text|e)
(text|safe)|upper; (text|safe)|replace('<', '>'); (text|e)|length; ('<i>'|safe)|e; ('<i>'|safe)|forceescape
text|list|length; word|list; box|list; numbers|list; nothing|list; n|list; text|first; numbers|first; []|first
numbers|last; []|last; word|last; numbers|min; numbers|max; words|min; words|max; words|max(true); []|max
people|min(attribute='age'); people|max(attribute='name'); numbers|sum; people|sum(attribute='age')
people|sum('age', 5); words|sum; [[1],[2]]|sum; [[1],[2]]|sum(start=[]); numbers|sort; words|sort
words|sort(true); words|sort(case_sensitive=true); people|sort(attribute='name')|map(attribute='name')|list
people|sort(attribute='city,age', reverse=true)|map(attribute='age')|list; mixed|sort; nothing|sort; word|sort
numbers|unique|list; words|unique|list; words|unique(true)|list; people|unique(attribute='city')|list|length
numbers|reverse|list; (numbers|reverse)|first; box|reverse|list; n|reverse; numbers|join; numbers|join(', ')
people|join('+', attribute='name'); word|join('-'); nothing|join; missing|join; mixed|join('|'); words|join(n)
people|map(attribute='address.zip.0')|list; people|map(attribute='address', default='-')|list
words|map('upper')|list; words|map('replace', 'a', 'x')|join; words|map|list; words|map('nope')|list
words|map(attribute='x', foo=1)|list; people|map(attribute='missing')|list; text|map('upper')|join
numbers|select|list; numbers|select('odd')|list; numbers|reject('odd')|list; numbers|select('gt', 1)|list
numbers|select('divisibleby', 3)|list; people|selectattr('tags')|list|length; people|rejectattr('tags')|list|length
people|selectattr('city', 'equalto', 'Rome')|map(attribute='name')|join; people|selectattr|list
people|selectattr('age', '>', 26)|map(attribute='age')|list; people|selectattr('name', 'in', ['Bob'])|list|length
people|rejectattr('name', 'eq', 'Bob')|list|length; missing|selectattr('a')|list; nothing|select|list
people|groupby('city')|list|length; people|groupby('city')|map(attribute='grouper')|list; (people|groupby('city'))[0].list|length
(people|groupby('city', case_sensitive=true))|map(attribute=0)|list; people|groupby('nope', default='q')|length
box|dictsort; box|dictsort(true); box|dictsort(false, 'value'); box|dictsort(by='x'); {'a':2,'b':1}|dictsort(by='value')
{'a':2,'B':1}|dictsort(reverse=true); box|items|list; missing|items|list; n|items|list; box|length; n|length
numbers|batch(2)|list; numbers|batch(3, '-')|list; numbers|batch(0)|list; numbers|batch(-1)|list; word|batch(2)|list
numbers|slice(2)|list; numbers|slice(3, '-')|list; numbers|slice(9)|list; numbers|slice(0)|list; numbers|slice(-1)|list
n|float; 'x'|float; 'x'|float(1.5); '12'|int; '12.7'|int; 'z'|int; 'z'|int(3); 'ff'|int(base=16); nothing|int; x|int
x|round; 2.345|round(2); 2.345|round(1, 'ceil'); 2.345|round(1, 'floor'); 25|round(-1); x|round(method='no'); -3|abs; word|abs
missing|default('d'); nothing|default('d'); empty|default('d', true); missing|d; '%s-%05d' % (word, n); '%s'|format(word)
'%(a)s %(b)5.1f'|format(a=word, b=x); '%s %s'|format(word); '%d' % word; '%%' % (); '%5s|%-5s|%.2s' % (word, word, word)
'%r %a' % ('é', 'é'); '%s' % [1, 2]; '%s %s' % (box, mixed); '%(k)s' % {'k': 1}; '%x %o %e %c' % (255, 8, x, 65); n % 4; x % 2
box|tojson; mixed|tojson; text|tojson; box|tojson(indent=2); box|tojson(2); box|tojson(indent='--', sort_keys=true); missing|tojson
box|tojson(ensure_ascii=true); box|tojson(separators=(',', ':')); box|tojson(separators=(',', ':'), indent=1); (1, 2)|tojson; numbers|unique|tojson
box|attr('get'); box|attr('b'); word|attr('upper'); missing|attr('a'); word|attr('__class__'); people[0]|attr('items')
word is string; n is string; missing is defined; word is defined; box.zzz is defined; box.b is defined; nothing is none; n is none; n is number; x is float; n is integer; yes is integer
yes is boolean; yes is true; yes is false; n is true; words is iterable; n is iterable; words is sequence; (words|map('upper')) is sequence; box is mapping; words is mapping
word is upper; 'ABC' is upper; word is lower; n is odd; n is even; n is divisibleby 7; n is divisibleby(2); n is eq 7; n is == 7; n is gt 3; n is lt 3; n is ge(7); n is le 7; n is ne 7; n is sameas n
'a' is in words; 'z' is in words; 'a' is not in words; 1 is in 5; 'map' is filter; 'nope' is filter; 'odd' is test; word is callable; range is callable; (text|e) is escaped; missing is undefined; not missing
people is sequence; missing is iterable; word is iterable; yes is number; nothing is not none; n is not string; n is eq(7) and x is gt(1)
word.upper(); word.startswith('a'); word.startswith(('x', 'a')); word.endswith('c', 1); text.strip(); text.strip(' \\n'); text.lstrip(); text.rstrip(); text.split(); text.split('l'); text.split('l', 1); text.rsplit('l', 1); text.splitlines()
text.splitlines(true); text.split(none, 2); text.split(sep=','); text.split(''); word.join(words); ','.join([]); ','.join([1]); word.replace('b', 'x'); word.replace('b', 'x', 0); word.find('c'); word.index('z'); word.rfind('c')
text.count('l'); word.isdigit(); word.isalpha(); 'Ab'.swapcase(); 'ab cd'.title(); 'ß'.casefold(); 'ab'.capitalize(); word.partition('b'); word.rpartition('b'); word.removeprefix('a'); word.removesuffix('c')
word.zfill(6); word.ljust(5) ~ '|'; word.rjust(5, '*'); word.center(7, '-'); 'a\\tb'.expandtabs(4); 'a\\tb'.expandtabs(); word.upper; word.nope; word.nope(); word.nope.more; word.encode; word.__class__; word.__class__.__mro__
'{} {}'.format(word, n); '{0} {0!r:>8} {k:05.1f}'.format(word, k=x); '{a[b]} {a.b}'.format(a=box); '{:>{w}}'.format(word, w=6); '{'.format(); '{.__class__}'.format(word); '{0.upper}'.format
box.get; box['get']; box.get('b'); box.get('zz'); box.get('zz', 5); box.keys()|list; box.values()|list|length; box.items()|list; box.copy() == box; box.b; box['b']; box._hidden; box['_hidden']; box['7']; box[7]; box.zzz; box['zzz'].more
people[0].items; people[0]['items']; people[1].items()|list|length; people[1]['items']; people[2].keys; people[2]['keys']; people[0].update; people[0].pop; people[0].pop('name'); words.append; words.append(1); words.append is defined
words.index('a'); words.index('zz'); numbers.count(3); words.copy(); words.sort(); box.clear(); box.setdefault('a', 1); words.reverse(); words.__len__(); words.extend([1]); box.fromkeys('ab'); box.popitem(); n.bit_length is string; x.is_integer()
words[0]; words[-1]; words[99]; words['0']; words[1:]; words[::-1]; words[:2]; text[2:8]; text[::2]; (1, 2, 3)[1:]; n[0]; nothing[0]; missing[0]; nothing.a; words[nothing]; box[words]; range(5)[2]; range(5)[1:]|list; words[1:3][0]
n + 1; n - 1; n * 2; n / 2; n // 2; n ** 2; -n; +n; 2 ** -1; 2 ** 0.5; n + x; word + word; word + n; n + word; words + words|length; words + [1]; words + (1,); (1,) + (2,); word * 2; 2 * word; words * 2; word * -1; word * word; [] * 3
word + 'x' + text + 'y'; 1 + 2 + 3; 'a' + 1 + 2; 1 + 2 + 'a'; word ~ n ~ nothing ~ missing ~ box; n ~ ''; word ~ words; true ~ false; (text|safe) + 'x' + '<'; 'x' + ('<'|safe); 'a' + missing; missing + 'a'
n == 7; n == 7.0; word == 'abc'; word != n; n > 3; n < word; 1 < n < 9; 1 < n > 9; 3 in numbers; 9 in numbers; 'b' in word; n in word; 'b' in box; words in [words]; nothing in nothing; 'a' not in word; 'x' in missing; [1] == [1]; box == box
[1, [2]] == [1, [2]]; (1, 2) < (1, 3); [1] < ['a']; numbers == words; people[0] == people[1]; 'b' < 'c' and 'c' < 'd'; not n; n and word; 0 or word; '' or none or 5; word if n else x; word if not n; (word if not n) is defined; n if missing else x
{'a': n, 'b': [1, word]}; {word: 1}[word]; {words: 1}; [1, 'a', none, true]; (1, 'a'); (1,); (); []; {}; {'a': {'b': 1}}.a.b; [1, 2, 3][n - 5]; {(1, 2): 3}; {(1, 2): 3}[(1, 2)]; dict(a=1); dict([('a', 1)]); dict({'a': 1}, b=2); dict(words)
range(3)|list; range(2, 8, 2)|list; range(3, 0, -1)|list; range(100001)|list|length; range('a'); range(5); range(0, 5).start; range(5).count(2); namespace(a=1).a; namespace(a=1).b; namespace({'a': 2}).a; namespace().__class__; namespace(a=1)
joiner('|'); cycler(1, 2).next(); cycler(1, 2).current; cycler(); strftime_now('%Y-%m-%d %H'); strftime_now('%d %b %Y'); raise_exception('no'); raise_exception(); lipsum is defined; lipsum; nope(1); word(1); n(1); words(1); box.b(); missing(); missing.a
''|default(text)|upper; text.split('\\n')[0]|trim|length; (words|map('lower')|unique|sort|join('-')).upper(); people|map(attribute='name')|map('lower')|map('first')|join; (numbers|map('string')|list) + words
true; false; none; True; None; 1_000; 1e3; 1.5e-3; 0x1f; 0b11; 'it''s'; "a\\nb"; 'é\\u00e9'; loop; self; caller; varargs; 5 | string; -5|abs; 2**3**2; 10 - 3 - 2; 2 * 3 % 4; not true == false; 1 in [1] == true
deep[0][1][1][0]; deep[1].a.b.c; deep[1]['a'].b['c']; deep[1].a.nope.c; deep|string; deep|tojson; deep|length; (deep|first)|first; deep[-1].a|items|list; deep[0] + deep[0][1]; [deep, deep] == [deep, deep]; deep in [deep]
"""

STATEMENTS = [
    "{% set a = 1 %}{{ a }}{% set a, b = (1, 2) %}{{ a }}{{ b }}",
    "{% set ns = namespace(a=1) %}{% for i in numbers %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
    "{% set n.a = 1 %}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{% set y | upper %}q{{ word }}{% endset %}{{ y }}{{ y is string }}",
    "{% for w in words %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
    "{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}"
    "{{ loop.changed(w|lower) }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for w in words|map('upper') %}{{ loop.length }}{{ loop.last }}{{ w }}{% endfor %}",
    "{% for w in words if w == w.lower() %}{{ loop.index }}{{ w }}{% else %}none{% endfor %}",
    "{% for w in [] %}x{% else %}none{% endfor %}{% for w in missing %}x{% else %}none{% endfor %}",
    "{% for w in nothing %}x{% endfor %}",
    "{% for k, v in box.items() %}{{ k }}={{ v }};{% endfor %}{% for k in box %}{{ k }}{% endfor %}",
    "{% for a, b in words %}{% endfor %}",
    "{% for c in word %}{{ c }}-{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}",
    "{% for i in numbers %}{% if i == 1 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}"
    "{{ i }}{% endfor %}",
    "{% for i in numbers %}{% set word = i %}{{ word }}{% endfor %}{{ word }}",
    "{% for i in numbers %}{% for j in numbers %}{{ loop.index }}{{ i * j }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for i in deep recursive %}{% if i is iterable and i is not string and i is not mapping %}"
    "({{ loop(i) }}){% else %}{{ i }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for i in numbers %}{{ loop(i) }}{% endfor %}",
    "{% macro m(a, b='B', c=a) %}{{ a }}{{ b }}{{ c }}{{ word }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}"
    "{{ m() }}{{ m }}{{ m.name }}{{ m.arguments }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}in{{ word }}{% endcall %}",
    "{% macro m() %}{% for i in numbers %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) m() %}<{{ i }}>{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro f(i) %}{% if i > 0 %}{{ i }}{{ f(i - 1) }}{% endif %}{% endmacro %}{{ f(20) }}",
    "{% macro m() %}{{ later }}{% endmacro %}{% set later = 5 %}{{ m() }}{{ m()|length }}{{ m() + 'x' }}",
    "{% for i in numbers %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% filter upper %}a{{ word }}{% endfilter %}{% filter replace('a', 'b') %}aa{% endfilter %}",
    "{% with a = 1, b = word %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% if n == 7 %}a{% elif n == 8 %}b{% else %}c{% endif %}{% if missing %}x{% endif %}{% if words|map('upper') %}y{% endif %}",
    "{% if missing|nope %}x{% endif %}",
    "{% if false %}{{ word|nope }}{% endif %}ok",
    "{{ word|nope }}",
    "{% if word is nope %}{% endif %}",
    "{% generation %}a{{ word }}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{% set q = 0 %}{% for i in numbers %}{% generation %}{{ i }}{{ loop.index }}{% set q = i %}{{ q }}{% endgeneration %}"
    "{{ q }}{% endfor %}{{ q }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner(', ') %}{% for i in numbers %}{{ j() }}{{ i }}{% endfor %}",
    "{% set f = word.upper %}{{ f() }}{% set g = '{}'.format %}{{ g(1) }}{% set h = ','.join %}{{ h(words) }}",
    "{% raw %}{{ x }}{% endraw %}{# gone #}\n  {%- set a = 1 -%}  \n a{{- a -}} b\n\n  {% if true %}\n  c\n  {% endif %}\n",
    "a\r\nb\rc\n{{ word }}\n",
    "{{ words|selectattr('x')|list }}{{ [1, 2][0:1] }}{{ (words|first).upper()[0] }}",
    "{% set messages = words %}{{ messages[0] }}{% set range = 5 %}{{ range }}",
    "{% set items = box.items()|list %}{{ items[0][0] }}{{ items|length }}",
    "{{ word }}{{ raise_exception('stop ' ~ n) }}",
    "{% for p in people|sort(attribute='age') %}{{ p.name }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.list = [] %}{% for w in words %}{% set ns.list = ns.list + [w] %}{% endfor %}{{ ns.list }}",
    "{% set a = [] %}{% set _ = a.append(1) %}{{ a }}",
    "{% do words.append(1) %}",
    "{% if x %}",
    "{{ 1 + }}",
    "{% endfor %}",

]  # fmt: skip

SINGLE = [
    text.strip() for line in EXPRESSIONS.strip().splitlines() for text in line.split(";") if text.strip()
]
UNLIKE = {
    # Texts of Python objects, which have addresses or other names in them.
    "word.upper", "box.get", "people[0].items", "people[2].keys", "'{0.upper}'.format", "joiner('|')",
    "box|attr('get')", "word|attr('upper')", "people[0]|attr('items')", "word.encode",
    # jinja's own: dummy text, and the object of inheritance.
    "lipsum is defined", "lipsum", "self",
    # A method that is not among those allowed.
    "n.bit_length is string", "box.fromkeys('ab')",
}  # fmt: skip


def ours(source: str) -> str | None:
    try:
        template = ChatTemplate(
            source, name="t", limits=TokenizeLimits(render_s_max=60.0), clock=lambda: NOON
        )
        return template.render(VALUES)
    except TemplateError:
        return None


@pytest.mark.parametrize("expression", [text for text in SINGLE if text not in UNLIKE])
def test_an_expression_gives_what_transformers_environment_gives(expression: str) -> None:
    source = "{{ " + expression.replace("\\\\n", "\\n") + " }}"
    assert ours(source) == reference_render(source, VALUES)


@pytest.mark.parametrize("source", STATEMENTS)
def test_statements_give_what_transformers_environment_gives(source: str) -> None:
    assert ours(source) == reference_render(source, VALUES)


@pytest.mark.slow
def test_the_values_are_not_changed() -> None:
    before = repr(VALUES)
    for expression in SINGLE:
        ours("{{ " + expression + " }}")
    assert repr(VALUES) == before


@pytest.mark.slow
def test_expressions_that_work_are_in_the_majority() -> None:
    """The list above would prove little if most of it failed on both sides."""
    working = [text for text in SINGLE if reference_render("{{ " + text + " }}", VALUES) is not None]
    assert len(working) > 0.75 * len(SINGLE)
