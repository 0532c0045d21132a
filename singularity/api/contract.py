"""What the REST API promises, as OpenAPI: built from the routes, and from what holds of all.

Every way of failing is a problem of RFC 9457, and which of them an operation may answer with
follows from what it takes. What people write is declared as the documents that are published
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from singularity.primitives.errors import SingularityError

from .nouns import NAMED
from .schemas import JobDocument
from .service_document import ServiceDocument

Json = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"
_METHODS: Final = ("get", "put", "post", "patch", "delete")
_PROBLEM: Final = "application/problem+json"
# Where a document of ours goes in as it is, to be read by its own reader.
_DOCUMENTS: Final[Mapping[tuple[str, str], type[BaseModel]]] = {
    ("Item", "job"): JobDocument,
    ("PlanRequest", "jobs"): JobDocument,
    ("Update", "service"): ServiceDocument,
}
_BODIES: Final[Mapping[str, type[BaseModel]]] = {
    "/v1/jobs": JobDocument,
    "/v1/services": ServiceDocument,
}
_WHY: Final = {
    HTTPStatus.BAD_REQUEST: "The request cannot be read at all.",
    HTTPStatus.UNAUTHORIZED: "There is no token, or it is not valid.",
    HTTPStatus.FORBIDDEN: "The token may not do this, or the request comes from elsewhere.",
    HTTPStatus.NOT_FOUND: "There is nothing of that name; `near` has those like it.",
    HTTPStatus.CONFLICT: "Not in the present state; the facts beside say which.",
    HTTPStatus.PRECONDITION_FAILED: "It has changed since the version that If-Match names.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body, or what it asks for, is too large.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Something is wrong in it; `errors` has each field and why.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not now; to repeat it after Retry-After is safe.",
}


def contract(title: str, version: str, routes: Sequence[BaseRoute]) -> Json:
    """The OpenAPI document of `routes`."""
    found = get_openapi(title=title, version=version, routes=routes)
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # nobody is answered with these
        schemas.pop(name, None)
    schemas |= _documents() | {"Problem": _problem()}
    for (model, field), document in _DOCUMENTS.items():
        held = schemas[model]["properties"]
        if held[field].get("type") == "array":
            held[field]["items"] = _of(document)
        else:
            held[field] = _of(document)
    found["paths"] = _lifted(found["paths"], schemas)
    parts["responses"] = {_named(status): _answer(status) for status in _WHY}
    parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    for path, method, operation in _operations(found):
        if method == "post" and path in _BODIES:
            content = operation["requestBody"]["content"]["application/json"]
            content["schema"] = _of(_BODIES[path])
        answers = operation["responses"]
        answers.pop("422", None)  # as everybody else would say it
        for status in _failures(method, operation):
            where = f"#/components/responses/{_named(status)}"
            answers[str(int(status))] = {"$ref": where}
    return found


def _lifted(held: Any, schemas: Json) -> Any:
    """With nouns told by reference, and each among `schemas` once."""
    if isinstance(held, list):
        return [_lifted(each, schemas) for each in held]
    if not isinstance(held, dict):
        return held
    inside = {name: _lifted(each, schemas) for name, each in held.items()}
    if NAMED not in inside:
        return inside
    title = inside.pop(NAMED)
    schemas[title] = inside | {"title": title}
    return _of_name(title)


def _operations(found: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in found["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield path, method, methods[method]


def _failures(method: str, operation: Json) -> list[HTTPStatus]:
    """By what it takes: who names nothing cannot name what there is not."""
    taken = {(p["in"], p["name"]) for p in operation.get("parameters", ())}
    found = [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE]
    if taken or "requestBody" in operation:
        found.append(HTTPStatus.UNPROCESSABLE_ENTITY)
    if "requestBody" in operation:
        found += [HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE]
    names = {"job", "service"} & {name for _, name in taken}
    if method != "get" or names or any(where == "path" for where, _ in taken):
        found += [HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT]
    if ("header", "if-match") in taken:
        found.append(HTTPStatus.PRECONDITION_FAILED)
    return sorted(found)


def _named(status: HTTPStatus) -> str:
    return f"Problem{int(status)}"


def _answer(status: HTTPStatus) -> Json:
    schema = {"allOf": [_of_name("Problem"), {"properties": {"status": {"const": int(status)}}}]}
    return {"description": _WHY[status], "content": {_PROBLEM: {"schema": schema}}}


def _problem() -> Json:
    text = {"type": "string"}
    types = sorted({f"/problems/{kind.slug}" for kind in kinds()})
    fault = {
        "type": "object",
        "properties": {"field": text, "why": text},
        "required": ["field", "why"],
    }
    return {
        "title": "Problem",
        "description": "RFC 9457. Beside these stand the facts of each kind, as fields.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": types},
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "minLength": 1},
            "errors": {"type": "array", "items": fault},
            "near": {"type": "array", "items": text},
        },
        "required": ["type", "title", "status", "detail"],
    }


def kinds(kind: type[SingularityError] = SingularityError) -> Iterator[type[SingularityError]]:
    """`kind`, and all that are of it."""
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def _documents() -> Json:
    """What job and service documents are made of, by name."""
    read: list[tuple[type[BaseModel], Any]] = [(JobDocument, "validation")]
    read.append((ServiceDocument, "validation"))
    _, found = models_json_schema(read, by_alias=True, ref_template=_SCHEMAS + "{model}")
    definitions: Json = found["$defs"]
    return definitions


def _of(model: type[BaseModel]) -> Json:
    return _of_name(model.__name__)


def _of_name(name: str) -> Json:
    return {"$ref": _SCHEMAS + name}
