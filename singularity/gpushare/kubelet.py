"""What kubelet and a device plugin say to each other: the messages and services of v1beta1.

Written down as a table instead of generated code. Source: api.proto of
k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "v1beta1"
KUBELET: Final = "kubelet.sock"  # in the directory of plugins
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
_Field = descriptor_pb2.FieldDescriptorProto
# Fields in the order of their numbers, from 1. "[]": many; "{}": texts by text.
_MESSAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "Empty": {},
    "DevicePluginOptions": {
        "pre_start_required": "bool",
        "get_preferred_allocation_available": "bool",
    },
    "RegisterRequest": {
        "version": "string",
        "endpoint": "string",
        "resource_name": "string",
        "options": "DevicePluginOptions",
    },
    "Device": {"ID": "string", "health": "string"},
    "ListAndWatchResponse": {"devices": "[]Device"},
    "ContainerPreferredAllocationRequest": {
        "available_deviceIDs": "[]string",
        "must_include_deviceIDs": "[]string",
        "allocation_size": "int32",
    },
    "PreferredAllocationRequest": {"container_requests": "[]ContainerPreferredAllocationRequest"},
    "ContainerPreferredAllocationResponse": {"deviceIDs": "[]string"},
    "PreferredAllocationResponse": {
        "container_responses": "[]ContainerPreferredAllocationResponse",
    },
    "ContainerAllocateRequest": {"devicesIDs": "[]string"},
    "AllocateRequest": {"container_requests": "[]ContainerAllocateRequest"},
    "Mount": {"container_path": "string", "host_path": "string", "read_only": "bool"},
    "ContainerAllocateResponse": {"envs": "{}", "mounts": "[]Mount"},
    "AllocateResponse": {"container_responses": "[]ContainerAllocateResponse"},
}
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
}
# Method, what it takes and gives; "stream " where it gives many.
REGISTRATION: Final = {"Register": ("RegisterRequest", "Empty")}
PLUGIN: Final = {
    "GetDevicePluginOptions": ("Empty", "DevicePluginOptions"),
    "ListAndWatch": ("Empty", "stream ListAndWatchResponse"),
    "GetPreferredAllocation": ("PreferredAllocationRequest", "PreferredAllocationResponse"),
    "Allocate": ("AllocateRequest", "AllocateResponse"),
}


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="deviceplugin.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (called, kind) in enumerate(fields.items(), start=1):
            _add(message, number, called, kind)
    return file


def _add(message: descriptor_pb2.DescriptorProto, number: int, called: str, kind: str) -> None:
    many = kind.startswith("[]") or kind == "{}"
    label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
    field = message.field.add(name=called, number=number, label=label)
    kind = kind.removeprefix("[]")
    if kind == "{}":
        entry = f"{called.capitalize()}Entry"
        pair = message.nested_type.add(name=entry)
        pair.options.map_entry = True
        _add(pair, 1, "key", "string")
        _add(pair, 2, "value", "string")
        kind = f"{message.name}.{entry}"
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_described())
MESSAGE: Final[Mapping[str, Any]] = {
    name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
    for name in _MESSAGES
}


def served(service: str, methods: Mapping[str, tuple[str, str]], by: object) -> Any:
    """A handler of that service: `by` has a method for each, that takes a message and a context."""
    found = {}
    for name, (takes, gives) in methods.items():
        kind = gives.removeprefix("stream ")
        make = (
            grpc.unary_unary_rpc_method_handler
            if gives == kind
            else grpc.unary_stream_rpc_method_handler
        )
        found[name] = make(
            getattr(by, name),
            request_deserializer=MESSAGE[takes].FromString,
            response_serializer=MESSAGE[kind].SerializeToString,
        )
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", found)


def call(channel: Any, service: str, methods: Mapping[str, tuple[str, str]], name: str) -> Any:
    """That method of a service at the other end of the channel."""
    takes, gives = methods[name]
    kind = gives.removeprefix("stream ")
    make = channel.unary_unary if gives == kind else channel.unary_stream
    return make(
        f"/{PACKAGE}.{service}/{name}",
        request_serializer=MESSAGE[takes].SerializeToString,
        response_deserializer=MESSAGE[kind].FromString,
    )
