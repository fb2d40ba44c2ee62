"""The description of the application as OpenAPI: what every endpoint has in common, and examples.

FastAPI derives the rest from the functions of the endpoints.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ruchu.api import examples, problems, repeating, rights_table
from ruchu.api.rights_table import Where

# What the shield, the guard and the framework answer, whatever the endpoint is.
_ALWAYS = (422, 429, 503)
_GUARDED = (401, 403)
_WITH_BODY = (400, 413)
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same request with the same key is carried out once",
    "schema": {"type": "string", "minLength": 1, "maxLength": repeating.KEY_MAX,
               "pattern": "^[!-~]+$"},
    "example": "3f9a6c1e-2026-11-22",
}  # fmt: skip
_JSON = "application/json"
_GENERATED = {"HTTPValidationError", "ValidationError"}


def install(app: FastAPI) -> None:
    """Let an application describe itself."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    # FastAPI documents this as the way.
    app.openapi = described  # type: ignore[method-assign]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _described(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    schemas["Problem"] = problems.Problem.model_json_schema()
    for name in _GENERATED & set(schemas):
        del schemas[name]
    for name, example in examples.SCHEMAS.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    for method, path, operation in operations(document):
        _complete(method, path, operation)
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
        _exemplify(operation, schemas)
    return document


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    """Add what every endpoint has in common."""
    need = rights_table.TABLE.get(operation["operationId"])
    guarded = need is not None and need.where is not Where.OPEN
    statuses = [*_ALWAYS] if path.startswith("/api") else [429, 503]
    statuses += _GUARDED if guarded else ()
    if "requestBody" in operation:
        statuses += _WITH_BODY
    if guarded and method == "post":
        operation.setdefault("parameters", []).append(_KEY)
        statuses += [409]
    answers = operation["responses"]
    if answers.get("422", {}).get("content", {}).keys() == {_JSON}:
        del answers["422"]
    for status in statuses:
        answers.setdefault(str(status), problems.described(status))
    operation["responses"] = dict(sorted(answers.items()))
    summary, _, rest = operation.get("description", "").partition("\n")
    operation["summary"] = summary.partition(":")[0].partition(";")[0].rstrip(".")
    operation["description"] = (summary + rest.rstrip()).strip()
    if need is not None and guarded:
        rights = ", ".join(need.rights) or "any account"
        operation["description"] += f"\n\nRight: {rights} ({need.where.value})."


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter: one that may be left out is no null, which no address has."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}


def _exemplify(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Give bodies and answers an example each."""
    name = operation["operationId"]
    body = operation.get("requestBody", {}).get("content", {}).get(_JSON)
    if body is not None and "example" not in body and "examples" not in body:
        found = examples.BODIES.get(name)
        body["example"] = found if found is not None else _example(body["schema"], schemas)
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get(_JSON)
        if content is not None and status.startswith("2") and "example" not in content:
            found = examples.ANSWERS.get(name)
            content["example"] = found if found is not None else _example(
                content["schema"], schemas
            )  # fmt: skip


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return an example of a schema, out of those of its parts."""
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    listed = [*schema.get("examples", ()), *schema.get("enum", ())]
    known = [*listed, *(schema[key] for key in ("const", "default") if key in schema)]
    if known:
        return known[0]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], schemas)
    return _of_type(str(schema.get("type")), schema, schemas)


def _of_type(kind: str, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    if "prefixItems" in schema:
        return [_example(each, schemas) for each in schema["prefixItems"]]
    if kind == "array":
        return [_example(schema["items"], schemas)] if "items" in schema else []
    if kind == "object":
        fields = schema.get("properties", {})
        return {key: _example(each, schemas) for key, each in fields.items()}
    plain = {"boolean": True, "integer": schema.get("minimum", 0), "number": 0, "null": None}
    return plain.get(kind, "…")
