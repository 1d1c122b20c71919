"""Messages and services of gRPC, made from texts when a module is imported.

No generated code, so that one file serves every release of protobuf; and a pool of descriptors for each
definition, so that code generated from the same one may live in the same process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_FIELD = re.compile(
    r"(?:(?P<label>repeated|optional|oneof (?P<oneof>\w+)) )?"
    r"(?:map<string, (?P<values>\w+)>|(?P<type>\w+)) (?P<name>\w+) = (?P<number>\d+)"
)
_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
}

Methods = Mapping[str, tuple[str, str]]
"""Names of calls, each with the messages that it takes and gives."""


class Definition:
    """One file of protobuf's language. Immutable; any thread."""

    def __init__(
        self, file: str, package: str, services: Mapping[str, Methods], messages: Mapping[str, str]
    ) -> None:
        """`messages`: their fields as in a .proto file, joined by "; "; one of a oneof states its name."""
        self._package = package
        self.services = {f"{package}.{name}": methods for name, methods in services.items()}
        """Methods by the full name of their service."""
        self.file = self._file(file, services, messages)
        """As protobuf's own compiler would state it."""
        pool = DescriptorPool()
        pool.AddSerializedFile(self.file.SerializeToString())
        self._classes: dict[str, Any] = {
            name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages
        }

    def message_class(self, name: str) -> Any:
        """The class of one of the messages."""
        return self._classes[name]

    def _file(
        self, name: str, services: Mapping[str, Methods], messages: Mapping[str, str]
    ) -> FileDescriptorProto:
        file = FileDescriptorProto(name=name, package=self._package, syntax="proto3")
        for message_name, fields in messages.items():
            message = file.message_type.add(name=message_name)
            for field in filter(None, fields.split("; ")):
                self._add_field(message, field)
            _add_presence(message)
        for service_name, methods in services.items():
            service = file.service.add(name=service_name)
            for method, (request, response) in methods.items():
                service.method.add(
                    name=method, input_type=self._type(request), output_type=self._type(response)
                )
        return file

    def _add_field(self, message: DescriptorProto, text: str) -> None:
        parts = _FIELD.fullmatch(text)
        assert parts is not None, text
        field = message.field.add(name=parts["name"], number=int(parts["number"]))
        if parts["values"]:
            self._set_type(field, self._add_entry(message, parts["name"], parts["values"]))
            field.label = FieldDescriptorProto.LABEL_REPEATED
            return
        self._set_type(field, parts["type"])
        is_repeated = parts["label"] == "repeated"
        field.label = (
            FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
        )
        field.proto3_optional = parts["label"] == "optional"
        if parts["oneof"]:
            if not message.oneof_decl:
                message.oneof_decl.add(name=parts["oneof"])
            field.oneof_index = 0

    def _add_entry(self, message: DescriptorProto, field: str, value_type: str) -> str:
        """A map is a list of entries on the wire. Returns the name of their type, below the message's."""
        name = "".join(word.capitalize() for word in field.split("_")) + "Entry"
        entry = message.nested_type.add(name=name)
        entry.options.map_entry = True
        for number, (part, kind) in enumerate((("key", "string"), ("value", value_type)), 1):
            part_field = entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            self._set_type(part_field, kind)
        return f"{message.name}.{name}"

    def _set_type(self, field: FieldDescriptorProto, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = self._type(kind)

    def _type(self, name: str) -> str:
        return f".{self._package}.{name}"


def _add_presence(message: DescriptorProto) -> None:
    # proto3 says whether an optional field is there by a oneof of its own, after all others.
    for field in message.field:
        if field.proto3_optional:
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")
        else:
            field.ClearField("proto3_optional")
