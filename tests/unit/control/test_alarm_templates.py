"""Templates: typed values, escaped for their place, and refused early if they cannot work."""

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.control.alarms.channels.templates import Place, Template, literal
from ruchu.errors import UsageError

NASTY = 'a"b\\c\n二&x=y#? ${phone} \u2028'
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(ANY_TEXT)
def test_json_stays_json(text):
    template = Template('{"a": "${text}", "b": ${count}}', Place.JSON)
    assert json.loads(template.render({"text": text, "count": 3})) == {"a": text, "b": 3}


@given(ANY_TEXT)
def test_an_address_keeps_its_shape(text):
    rendered = Template("https://h/${text}/x?y=${text}", Place.URL).render({"text": text})
    assert rendered.count("/") == 4
    assert unquote(rendered.partition("y=")[2]) == text


@given(ANY_TEXT)
def test_a_header_stays_one_line_of_ascii(text):
    rendered = Template("x ${text}", Place.HEADER).render({"text": text})
    assert rendered.isascii()
    assert not set(rendered) & set("\r\n\0")


def test_json_within_a_parameter():
    template = Template('{"name":"${subject:5:json}"}', Place.PLAIN)
    assert json.loads(template.render({"subject": '1"3\n567'})) == {"name": '1"3\n5'}


def test_values_are_not_templates():
    assert Template("${text}", Place.PLAIN).render({"text": NASTY}) == NASTY


def test_literals():
    assert Template(literal("5$ ${x}"), Place.PLAIN).render({}) == "5$ ${x}"


@pytest.mark.parametrize("text", ["${nope}", "$", "${text", "${text:upper}", "$x", "x" * 99_999])
def test_a_template_that_cannot_work(text):
    with pytest.raises(UsageError):
        Template(text, Place.JSON)


@pytest.mark.parametrize(
    ("name", "value"), [("phone", "1; drop"), ("phone", "+"), ("count", "three")]
)
def test_values_of_another_type(name, value):
    with pytest.raises(UsageError):
        Template(f"${{{name}}}", Place.PLAIN).render({name: value})


def test_a_value_that_is_missing():
    with pytest.raises(UsageError):
        Template("${secrets.token}", Place.HEADER).render({})


def test_words_hold_nothing_but_words():
    assert Template("${code}", Place.PLAIN).render({"code": 'a"\n二b'}) == "a---b"
