// Python bindings of checksums, heads and names of chunk files. No logic here.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "offload/native/bind_offload.hpp"
#include "offload/native/chunk_file.hpp"
#include "offload/native/chunk_names.hpp"
#include "offload/native/crc32c.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

CrcWay way_of(nb::handle way) {
  if (way.is_none()) return crc_way();
  const char* text = PyUnicode_AsUTF8(way.ptr());
  if (text == nullptr) PyErr_Clear();
  const std::string name = text == nullptr ? "" : text;
  for (const CrcWay way : kCrcWays)
    if (name == name_of(way) && available(way)) return way;
  throw Error(ErrorKind::input, "way: expected one of crc32c_ways(), got '" + name + "'");
}

std::vector<std::string> crc_ways() {
  std::vector<std::string> names;
  for (const CrcWay way : kCrcWays)
    if (available(way)) names.emplace_back(name_of(way));
  return names;
}

uint32_t crc(nb::handle data, uint32_t before, nb::handle way) {
  const ByteSpan span(data, "data");
  const CrcWay by = way_of(way);
  nb::gil_scoped_release unlocked;
  return crc32c_by(by, before, span.data(), span.size());
}

// A buffer that is written to.
class WritableSpan {
 public:
  explicit WritableSpan(nb::handle buffer) {
    if (PyObject_GetBuffer(buffer.ptr(), &view_, PyBUF_WRITABLE) != 0) {
      PyErr_Clear();
      throw Error(ErrorKind::input, "to: expected a writable buffer");
    }
  }
  WritableSpan(const WritableSpan&) = delete;
  ~WritableSpan() { PyBuffer_Release(&view_); }
  void* data() const { return view_.buf; }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

uint32_t copy_crc(nb::handle to, nb::handle from, nb::handle way) {
  const WritableSpan target(to);
  const ByteSpan source(from, "from_");
  if (target.size() != source.size())
    throw Error(ErrorKind::input, "to: expected " + std::to_string(source.size()) + " bytes, got " + std::to_string(target.size()));
  const CrcWay by = way_of(way);
  nb::gil_scoped_release unlocked;
  return copy_crc32c_by(by, target.data(), source.data(), source.size());
}

const uint8_t* octets(nb::bytes bytes) { return reinterpret_cast<const uint8_t*>(bytes.c_str()); }
nb::bytes bytes_of(const void* data, size_t n) { return nb::bytes(static_cast<const char*>(data), n); }

void check_length(const char* name, size_t got, size_t least, size_t most) {
  if (got >= least && got <= most) return;
  const std::string expected = least == most ? std::to_string(least) : std::to_string(least) + " to " + std::to_string(most);
  throw Error(ErrorKind::input, std::string(name) + ": expected " + expected + " bytes, got " + std::to_string(got));
}

std::string chunk_name(nb::bytes key) {
  check_length("key", key.size(), kKeyBytesMin, kKeyBytesMax);
  std::string name;
  ChunkNames::append_name(octets(key), key.size(), name);
  return name;
}

nb::object chunk_key(const std::string& name) {
  std::string key;
  if (!ChunkNames::parse(name, key)) return nb::none();
  return bytes_of(key.data(), key.size());
}

nb::bytes encode(nb::bytes key, nb::bytes fingerprint, uint64_t payload_bytes, uint32_t payload_crc32c, nb::bytes writer,
                 int64_t written_ms, uint32_t blocks, uint32_t valid_blocks) {
  check_length("key", key.size(), kKeyBytesMin, kKeyBytesMax);
  check_length("fingerprint", fingerprint.size(), kFingerprintBytes, kFingerprintBytes);
  check_length("writer", writer.size(), kWriterBytes, kWriterBytes);
  if (payload_bytes == 0 || payload_bytes > kPayloadBytesMax)
    throw Error(ErrorKind::input, "payload_bytes: expected 1 to " + std::to_string(kPayloadBytesMax) + ", got " + std::to_string(payload_bytes));
  if (valid_blocks == 0 || valid_blocks > blocks)
    throw Error(ErrorKind::input, "valid_blocks: expected 1 to blocks (" + std::to_string(blocks) + "), got " + std::to_string(valid_blocks));
  ChunkHead head;
  head.payload_bytes = payload_bytes;
  head.blocks = blocks;
  head.valid_blocks = valid_blocks;
  std::memcpy(head.fingerprint, fingerprint.c_str(), kFingerprintBytes);
  std::memcpy(head.writer, writer.c_str(), kWriterBytes);
  head.written_ms = written_ms;
  head.payload_crc32c = payload_crc32c;
  head.key_bytes = static_cast<uint32_t>(key.size());
  std::memcpy(head.key, key.c_str(), key.size());
  uint8_t page[kHeadBytes];
  encode_head(head, page);
  return bytes_of(page, sizeof page);
}

ChunkHead read(nb::handle page) {
  const ByteSpan span(page, "page");
  check_length("page", span.size(), kHeadBytes, kHeadBytes);
  ChunkHead head;
  const HeadFault fault = decode_head(span.data(), head);
  if (fault != HeadFault::none)
    throw Error(ErrorKind::store, std::string("chunk file: expected a head of version ") + std::to_string(kFormatVersion) + ", got one that " + text_of(fault));
  return head;
}

}  // namespace

void bind_files(nb::module_& m) {
  m.attr("HEAD_BYTES") = kHeadBytes;
  m.attr("FORMAT_VERSION") = kFormatVersion;
  m.attr("KEY_BYTES_MAX") = kKeyBytesMax;
  m.def("crc32c", &crc, nb::arg("data"), nb::arg("crc") = 0, nb::kw_only(), nb::arg("way").none() = nb::none());
  m.def("copy_crc32c", &copy_crc, nb::arg("to"), nb::arg("from_"), nb::kw_only(), nb::arg("way").none() = nb::none());
  m.def("crc32c_ways", &crc_ways);
  m.def("chunk_name", &chunk_name, nb::arg("key"));
  m.def("chunk_key", &chunk_key, nb::arg("name"));
  m.def("file_bytes", &file_bytes, nb::arg("payload_bytes"));
  m.def("encode_head", &encode, nb::kw_only(), nb::arg("key"), nb::arg("fingerprint"), nb::arg("payload_bytes"), nb::arg("payload_crc32c"),
        nb::arg("writer"), nb::arg("written_ms"), nb::arg("blocks") = 1, nb::arg("valid_blocks") = 1);
  m.def("read_head", &read, nb::arg("page"));
  nb::class_<ChunkHead>(m, "ChunkHead")
      .def_ro("payload_bytes", &ChunkHead::payload_bytes)
      .def_ro("blocks", &ChunkHead::blocks)
      .def_ro("valid_blocks", &ChunkHead::valid_blocks)
      .def_ro("written_ms", &ChunkHead::written_ms)
      .def_ro("payload_crc32c", &ChunkHead::payload_crc32c)
      .def_prop_ro("fingerprint", [](const ChunkHead& head) { return bytes_of(head.fingerprint, kFingerprintBytes); })
      .def_prop_ro("writer", [](const ChunkHead& head) { return bytes_of(head.writer, kWriterBytes); })
      .def_prop_ro("key", [](const ChunkHead& head) { return bytes_of(head.key, head.key_bytes); });
}

}  // namespace kvatlas
