// Python bindings of what the remote index packs and unpacks. No logic here.
#include "index/native/module_compact.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "index/native/remote_answer.hpp"
#include "index/native/remote_batch.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

nb::bytes bytes_of(const std::vector<uint8_t>& bytes) { return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }

nb::object array_of_u32(const std::vector<uint32_t>& numbers) {
  const NewArray out = new_array(Dtype::uint32, numbers.size());
  if (!numbers.empty()) std::memcpy(out.data, numbers.data(), 4 * numbers.size());
  return out.array;
}

// The keys of a bucket's segments on the server. Source: docs/remote_format.md.
nb::list names_of(const std::string& space, uint32_t bucket, const std::vector<uint32_t>& tags) {
  const std::string prefix = "{" + space + ":" + std::to_string(bucket) + "}:s:";
  nb::list out;
  for (const uint32_t tag : tags) {
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", tag);
    const std::string name = prefix + digits;
    out.append(nb::bytes(name.data(), name.size()));
  }
  return out;
}

nb::tuple lanes_of_batch(nb::handle delta) {
  const ByteSpan span(delta, "delta");
  const RemoteLanesOfBatch lanes = [&] {
    nb::gil_scoped_release unlocked;
    return remote_lanes_of(span.data(), span.size());
  }();
  nb::list keyed, cleared, closed;
  for (const uint32_t lane : lanes.keyed) keyed.append(lane);
  for (const uint32_t lane : lanes.cleared) cleared.append(lane);
  for (const auto& [lane, is_closed] : lanes.closed) closed.append(nb::make_tuple(lane, is_closed));
  return nb::make_tuple(keyed, cleared, closed);
}

nb::list pack(nb::handle delta, nb::dict phys_of, uint32_t n_buckets, const std::string& space) {
  const ByteSpan span(delta, "delta");
  std::unordered_map<uint32_t, uint32_t> map;
  for (const auto [lane, phys] : phys_of) map[nb::cast<uint32_t>(lane)] = nb::cast<uint32_t>(phys);
  for (const auto& [lane, phys] : map)
    if (phys == 0 || phys > kRemotePhysMax) throw Error(ErrorKind::input, "phys_of[" + std::to_string(lane) + "]: expected 1 to 2^24-1, got " + std::to_string(phys));
  const std::vector<RemoteCall> calls = [&] {
    nb::gil_scoped_release unlocked;
    return remote_pack(span.data(), span.size(), map, n_buckets);
  }();
  nb::list out;
  for (const RemoteCall& call : calls) out.append(nb::make_tuple(call.bucket, names_of(space, call.bucket, call.tags), bytes_of(call.records), call.keys));
  return out;
}

nb::list questions(nb::handle keys, uint32_t n_buckets, const std::string& space) {
  const KeySpan span(keys, "keys");
  nb::list out;
  for (const RemoteQuestion& question : remote_questions(span.data(), span.size(), n_buckets))
    out.append(nb::make_tuple(question.bucket, names_of(space, question.bucket, question.tags), bytes_of(question.questions), array_of(question.keys)));
  return out;
}

void make_lanes(RemoteLanes* self, nb::handle pairs) {
  const TokenSpan span(pairs);  // uint32 as token ids are
  if (span.size() % 2 != 0) throw Error(ErrorKind::input, "pairs: expected an even number of them, got " + std::to_string(span.size()));
  new (self) RemoteLanes(std::vector<uint32_t>(span.data(), span.data() + span.size()));
}

nb::tuple answer(nb::handle bytes, size_t n_keys, const RemoteLanes& lanes, bool whole) {
  const ByteSpan span(bytes, "answer");
  const RemoteAnswer out = [&] {
    nb::gil_scoped_release unlocked;
    return remote_answer(span.data(), span.size(), n_keys, lanes, whole);
  }();
  return nb::make_tuple(nb::bytes(out.life.data(), out.life.size()), bytes_of(out.excerpt), out.foreign_values);
}

nb::tuple page(nb::handle bytes, const RemoteLanes& lanes) {
  const ByteSpan span(bytes, "page");
  const RemotePage out = [&] {
    nb::gil_scoped_release unlocked;
    return remote_page(span.data(), span.size(), lanes);
  }();
  return nb::make_tuple(array_of(out.keys), array_of_u32(out.tags), array_of_u32(out.sets), array_of_u32(out.counts), array_of_u32(out.elements), out.foreign_values);
}

}  // namespace

void bind_compact(nb::module_& m) {
  nb::class_<RemoteLanes>(m, "RemoteLanes")
      .def("__init__", &make_lanes, nb::arg("pairs"))
      .def("__len__", &RemoteLanes::size);
  m.def("remote_lanes_of", &lanes_of_batch, nb::arg("delta").none());
  m.def("remote_pack", &pack, nb::arg("delta").none(), nb::arg("phys_of"), nb::arg("n_buckets"), nb::arg("space"));
  m.def("remote_questions", &questions, nb::arg("keys"), nb::arg("n_buckets"), nb::arg("space"));
  m.def("remote_answer", &answer, nb::arg("answer").none(), nb::arg("n_keys"), nb::arg("lanes"), nb::arg("whole") = true);
  m.def("remote_page", &page, nb::arg("page").none(), nb::arg("lanes"));
}

}  // namespace kvatlas
