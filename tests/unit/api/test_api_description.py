"""The description of the API: complete, with examples that are what they are examples of."""

import api_world
import pytest

from ruchu.api import describing, examples, rights_table
from ruchu.api.rights_table import Where

JSON = "application/json"


@pytest.fixture
def document(world):
    return world.app.openapi()


def operations(document):
    return list(describing.operations(document))


def test_every_operation_says_what_it_does(document):
    names = [each["operationId"] for _, _, each in operations(document)]
    assert len(names) == len(set(names))
    for _, path, each in operations(document):
        assert each["summary"], path
        assert not each["summary"].endswith("."), path
        assert len(each["summary"]) < 100, each["summary"]
        assert each["description"].startswith(each["summary"][:10]), path
        assert each["tags"], path
        for parameter in each.get("parameters", ()):
            assert "schema" in parameter


def test_every_status_is_described(document):
    for method, path, each in operations(document):
        need = rights_table.TABLE[each["operationId"]]
        statuses = set(each["responses"])
        assert any(status.startswith(("2", "3")) for status in statuses), path
        assert {"429", "503"} <= statuses, path
        if need.where is not Where.OPEN:
            assert {"401", "403"} <= statuses, path
        if "{" in path and each["operationId"] not in MADE_BY_NAME:
            assert "404" in statuses, path
        if any(p["name"].lower() == "if-match" for p in each.get("parameters", ())):
            assert {"412", "428"} <= statuses or each["operationId"] == "put_settings", path
        if "requestBody" in each:
            assert {"400", "413", "422"} <= statuses, path
        if method == "post" and need.where is not Where.OPEN:
            keys = [p for p in each["parameters"] if p["name"] == "Idempotency-Key"]
            assert len(keys) == 1, path


# What is written under a name need not be there.
MADE_BY_NAME = {"put_rule", "put_channel", "put_provider"}


def test_problems_have_their_media_type_and_an_example_each(document):
    problem = api_world.validator({"$ref": "#/components/schemas/Problem"}, document)
    for _, path, each in operations(document):
        for status, answer in each["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], (path, status)
                content = answer["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                problem.validate(content["example"])
                assert content["example"]["status"] == int(status)


def contents(document):
    """Yield every JSON body and answer that succeeded, with where it stands."""
    for method, path, each in operations(document):
        body = each.get("requestBody", {}).get("content", {}).get(JSON)
        if body is not None:
            yield f"{method} {path} body", body
        for status, answer in each["responses"].items():
            content = answer.get("content", {}).get(JSON)
            if status < "400" and content is not None:
                yield f"{method} {path} {status}", content


def test_every_body_and_answer_has_an_example_that_fits(document):
    count = 0
    for where, content in contents(document):
        found = content["schema"].get("examples", [])
        found = found if "example" not in content else [content["example"], *found]
        assert found, where
        for example in found:
            errors = list(api_world.validator(content["schema"], document).iter_errors(example))
            assert not errors, (where, errors[0].message, example)
        count += 1
    assert count > 100


def test_examples_are_of_schemas_that_exist_and_fit_them(document):
    schemas = document["components"]["schemas"]
    assert not set(examples.SCHEMAS) - set(schemas)
    names = {each["operationId"] for _, _, each in operations(document)}
    assert not (set(examples.ANSWERS) | set(examples.BODIES)) - names
    for name, example in examples.SCHEMAS.items():
        api_world.validator({"$ref": f"#/components/schemas/{name}"}, document).validate(example)


def test_what_is_too_long_cannot_be_sent(document):
    """A limit on everything: each text and each list of a body has one."""
    lacking = []
    for name, schema in document["components"]["schemas"].items():
        for key, field in schema.get("properties", {}).items():
            if not used_in_bodies(document, name):
                continue
            for part in [field, *field.get("anyOf", ())]:
                text = part.get("type") == "string" and "enum" not in part
                if text and not {"maxLength", "pattern", "const"} & set(part):
                    lacking.append(f"{name}.{key}")
                if part.get("type") == "array" and not {"maxItems", "prefixItems"} & set(part):
                    lacking.append(f"{name}.{key}")
    assert not [each for each in lacking if each not in NOT_OURS]


# Values of the control plane, which checks them itself.
NOT_OURS = {
    "QuietHours.zone", "QuietHours.start", "QuietHours.end", "QuietHours.days", "Step.channels",
}  # fmt: skip


def used_in_bodies(document, name, seen=()):
    reference = f"'#/components/schemas/{name}'"
    for _, _, each in operations(document):
        body = each.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema", {})
        if reference in repr(body):
            return True
    return any(
        used_in_bodies(document, other, (*seen, name))
        for other, schema in document["components"]["schemas"].items()
        if other not in {name, *seen} and reference in repr(schema.get("properties"))
    )
